-- One replica's message about one account: `Store::publish`. O(1) in replicas.
--
-- Amounts are compared as strings and added by HINCRBY with differences that were computed in Rust. Lua's doubles see them only
-- to compare sizes, and to compute a grant while what is left is below 2^53, where doubles are exact.
--
-- KEYS 1 head, 2 row, 3 replicas, 4 outbox, 5 lifetime usage, 6 index of hours, 7… usage of an hour each
-- ARGV 1 replica, 2 seq, 3 believed spend, 4 believed committed, 5 new spend, 6 new committed, 7 spend difference,
--      8 the same below zero, 9 committed difference below zero, 10 held, 11 want, 12 need, 13 largest lease,
--      14 number of hours, 15… their members in the index, then rows of usage: key, field, tally
-- Answers {'none'}, {'range'}, or {applied, spend, committed, seq, total, unleased, version, length of the outbox}.
local head, row = KEYS[1], KEYS[2]

-- A sum beyond the range is an answer; anything else (no memory, read-only) is Redis' own error.
local function failed(reply)
  if string.find(reply.err, 'overflow', 1, true) then return {'range'} end
  return reply
end

if redis.call('HEXISTS', head, 'version') == 0 then return {'none'} end
local old = redis.call('HMGET', row, 'spend', 'committed', 'seq', 'live')
local applied = 0

if tonumber(ARGV[2]) > tonumber(old[3] or '0') then
  if (old[1] or '0') == ARGV[3] and (old[2] or '0') == ARGV[4] then
    -- Whatever can fail comes first and leaves nothing behind.
    local total = redis.pcall('HINCRBY', head, 'total', ARGV[7])
    if type(total) == 'table' then return failed(total) end
    local unleased = redis.pcall('HINCRBY', head, 'unleased', ARGV[9])
    if type(unleased) == 'table' then
      redis.call('HINCRBY', head, 'total', ARGV[8])
      return failed(unleased)
    end
    applied = 1
    redis.call('HSET', row, 'spend', ARGV[5], 'committed', ARGV[6], 'held', ARGV[10])
  end

  local time = redis.call('TIME')
  local seen = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSET', row, 'seq', ARGV[2], 'seen', seen)
  if old[4] ~= '1' then
    redis.call('HSET', row, 'live', '1')
    redis.call('HINCRBY', head, 'live', 1)
    redis.call('SADD', KEYS[3], ARGV[1])
  end
end

if applied == 1 then
  local figures = redis.call('HMGET', head, 'unleased', 'live')
  local free, live = tonumber(figures[1]), tonumber(figures[2])
  local want, need = tonumber(ARGV[11]), tonumber(ARGV[12])
  -- `want` is at most the largest lease: with more than that left, the answer is `want` itself, and exact.
  local grant = math.min(want, free)
  if live > 1 and free <= tonumber(ARGV[13]) then
    grant = math.min(grant, math.max(need, math.floor(free / (2 * live))))
  end
  if grant > 0 then
    local text = string.format('%.0f', grant)
    if type(redis.pcall('HINCRBY', row, 'committed', text)) ~= 'table' then
      redis.call('HINCRBY', head, 'unleased', '-' .. text)
    end
  end

  local hours = tonumber(ARGV[14])
  for i = 15, 14 + hours do
    redis.call('ZADD', KEYS[6], string.match(ARGV[i], '^[^|]*'), ARGV[i])
  end
  for i = 15 + hours, #ARGV, 3 do
    redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
  end
end

local mine = redis.call('HMGET', row, 'spend', 'committed', 'seq')
local all = redis.call('HMGET', head, 'total', 'unleased', 'version')
return {applied, mine[1] or '0', mine[2] or '0', mine[3] or '0', all[1], all[2], all[3], redis.call('LLEN', KEYS[4])}
