-- One replica's message about one account: `shared::publish`, whose every step this repeats. O(1) in replicas.
--
-- Amounts are compared as strings and added by HINCRBY with differences that were computed in Rust. Lua's doubles see them only
-- to compare sizes, and to compute a grant while what is left is below 2^53, where doubles are exact. Shares are below 2^53.
--
-- KEYS 1 head, 2 row, 3 replicas, 4 outbox, 5 lifetime usage, 6 index of hours, 7 tombstones, 8… usage of an hour each
-- ARGV 1 replica, 2 seq, 3 believed spend, 4 committed, 5 rate, 6 places, 7 new spend, 8 committed, 9 rate, 10 places,
--      11 spend difference, 12 committed difference below zero, 13 how much of the spend a store had before, 14 total seen,
--      15 held, 16 want, 17 need, 18 least, 19 largest lease, 20 rate limit, 21 demand, 22 want, 23 places limit, 24 demand,
--      25 want, 26 number of hours, 27… their members in the index, then rows of usage: key, field, tally;
--      and before all of these, whether the history is fenced, and whether it is the one that the replica knows
-- Answers {'none'}, {'range'}, or {applied, spend, committed, rate, places, seq, total, unleased, version, lost,
--      rate shared, demand, rested, places shared, demand, rested, length of the outbox, fenced}.
local head, row = KEYS[1], KEYS[2]
local fenced = table.remove(ARGV, 1) == '1'
local knows = table.remove(ARGV, 1) == '1'

local function text(number) return string.format('%.0f', number) end

local function negated(amount)
  if amount == '0' then return amount end
  if string.sub(amount, 1, 1) == '-' then return string.sub(amount, 2) end
  return '-' .. amount
end

-- Of two amounts that are not negative: exact, whatever their size.
local function less(a, b) return #a < #b or (#a == #b and a < b) end

-- Adds to figures of the head, all or none. An error other than a sum beyond the range (no memory, read-only) is Redis' own.
local function add(changes)
  for i, change in ipairs(changes) do
    local sum = redis.pcall('HINCRBY', head, change[1], change[2])
    if type(sum) == 'table' then
      for j = 1, i - 1 do redis.call('HINCRBY', head, changes[j][1], negated(changes[j][2])) end
      if string.find(sum.err, 'overflow', 1, true) then return {'range'} end
      return sum
    end
  end
end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local stands = redis.call('HMGET', head, 'version', 'fenced_until')
if not stands[1] then return {'none'} end
if stands[2] and clock() < tonumber(stands[2]) then fenced = true end
local old = redis.call('HMGET', row, 'spend', 'committed', 'rate', 'places', 'seq', 'live', 'rate_demand', 'places_demand')
local returned = false
if not old[5] then
  local left = redis.call('HGET', KEYS[7], ARGV[1])
  if left then
    local spend, seq = string.match(left, '^(.*)|(.*)$')
    old[1], old[2], old[5], returned = spend, spend, seq, true
  end
end
local applied, rested = 0, {0, 0}

if tonumber(ARGV[2]) > tonumber(old[5] or '0') then
  local now = clock()

  -- Whatever can fail comes first and leaves nothing behind.
  local known = redis.call('HMGET', head, 'total', 'lost')
  if less(known[1], ARGV[14]) then
    redis.call('HINCRBY', head, 'total', negated(ARGV[14]))
    local missing = negated(redis.call('HGET', head, 'total'))
    redis.call('HSET', head, 'total', known[1])
    local failed = add({{'total', missing}, {'lost', missing}, {'unleased', negated(missing)}})
    if failed then return failed end
    known[2] = redis.call('HGET', head, 'lost')
  end

  if knows and (old[1] or '0') == ARGV[3] and (old[2] or '0') == ARGV[4] and (old[3] or '0') == ARGV[5] and (old[4] or '0') == ARGV[6] then
    local lost = known[2] or '0'
    local healed = less(lost, ARGV[13]) and lost or ARGV[13]
    local changes = {{'total', ARGV[11]}, {'unleased', ARGV[12]}}
    if healed ~= '0' then
      changes[3], changes[4], changes[5] = {'lost', negated(healed)}, {'total', negated(healed)}, {'unleased', healed}
    end
    local failed = add(changes)
    if failed then return failed end
    applied = 1
    redis.call('HSET', row, 'spend', ARGV[7], 'committed', ARGV[8], 'held', ARGV[15])
  end

  redis.call('HSET', row, 'seq', ARGV[2], 'seen', text(now))
  if old[6] ~= '1' then
    redis.call('HSET', row, 'live', '1')
    redis.call('HINCRBY', head, 'live', 1)
    redis.call('SADD', KEYS[3], ARGV[1])
    if returned then
      redis.call('HDEL', KEYS[7], ARGV[1])
      if applied == 0 then redis.call('HSET', row, 'spend', old[1], 'committed', old[2]) end
    end
  end

  if applied == 1 then
    local figures = redis.call('HMGET', head, 'unleased', 'live')
    local free, live = tonumber(figures[1]), tonumber(figures[2])
    local want, need = tonumber(ARGV[16]), tonumber(ARGV[17])
    -- `want` is at most the largest lease: with more than that left, the answer is `want` itself, and exact.
    local grant = math.min(want, free)
    if live > 1 and free <= tonumber(ARGV[19]) then
      grant = math.min(grant, math.max(need, math.floor(free / (2 * live))))
    end
    if grant > 0 and grant >= tonumber(ARGV[18]) and not fenced then
      local amount = text(grant)
      if type(redis.pcall('HINCRBY', row, 'committed', amount)) ~= 'table' then
        redis.call('HINCRBY', head, 'unleased', '-' .. amount)
      end
    end

    for i, limit in ipairs({{'rate', 3, 7, 9, 20}, {'places', 4, 8, 10, 23}}) do
      local name, was, asked, new, sought = limit[1], tonumber(old[limit[2]] or '0'), tonumber(old[limit[3]] or '0'), tonumber(ARGV[limit[4]]), limit[5]
      local most, demand, more = tonumber(ARGV[sought]), tonumber(ARGV[sought + 1]), tonumber(ARGV[sought + 2])
      if was > 0 or asked > 0 or new > 0 or most > 0 then
        local part = redis.call('HMGET', head, name, name .. '_demand', name .. '_ms')
        local shared, all = tonumber(part[1] or '0'), tonumber(part[2] or '0')
        local kept = math.max(shared - was, 0) + new
        local granted = 0
        if not fenced then granted = math.min(more, math.max(most - kept, 0)) end
        if granted > 0 then rested[i] = math.max(now - tonumber(part[3] or '0'), 0) end
        if kept + granted ~= shared then redis.call('HSET', head, name .. '_ms', text(now)) end
        redis.call('HSET', head, name, text(kept + granted), name .. '_demand', text(math.max(all - asked, 0) + demand))
        redis.call('HSET', row, name, text(new + granted), name .. '_demand', text(demand))
      end
    end

    local hours = tonumber(ARGV[26])
    for i = 27, 26 + hours do
      redis.call('ZADD', KEYS[6], string.match(ARGV[i], '^[^|]*'), ARGV[i])
    end
    for i = 27 + hours, #ARGV, 3 do
      redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
    end
  end
end

local mine = redis.call('HMGET', row, 'spend', 'committed', 'rate', 'places', 'seq')
if not mine[5] then mine = old end
local all = redis.call('HMGET', head, 'total', 'unleased', 'version', 'lost', 'rate', 'rate_demand', 'places', 'places_demand')
return {
  applied, mine[1] or '0', mine[2] or '0', mine[3] or '0', mine[4] or '0', mine[5] or '0', all[1], all[2], all[3], all[4] or '0',
  all[5] or '0', all[6] or '0', text(rested[1]), all[7] or '0', all[8] or '0', text(rested[2]), redis.call('LLEN', KEYS[4]),
  fenced and 1 or 0
}
