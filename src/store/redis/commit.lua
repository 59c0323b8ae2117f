-- Writes a book if its version still stands: `Store::commit`. All of it or nothing.
--
-- KEYS 1 head, 2 ledger, 3 claims, 4 outbox
-- ARGV 1 expected version, 2 new version, 3 book, 4 credit difference, 5 entries before, 6 how many of the first entries are gone for
--      good, if there is no book yet, 7 channel, 8 what is told there, 9 number of entries, 10 number of events, 11… entries, then
--      events, then claims: name, claim; and before all of these, whether what was lost is put back, for how much longer the history
--      is fenced, and the time of a lease, both in ms
-- Answers 'at', 'conflict', 'range', 'gap', 'purged', or 'fenced' with for how much longer, in ms.
local head, ledger, claims, outbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local restores = table.remove(ARGV, 1) == '1'
local fence, lease = tonumber(table.remove(ARGV, 1)), tonumber(table.remove(ARGV, 1))
if redis.call('HEXISTS', head, 'purged') == 1 then return 'purged' end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local stands = redis.call('HMGET', head, 'version', 'fenced_until')
if not restores then
  if stands[2] then fence = math.max(fence, tonumber(stands[2]) - now()) end
  if fence > 0 then return 'fenced ' .. string.format('%.0f', fence) end
end
if (stands[1] or '0') ~= ARGV[1] then return 'conflict' end
local entries, events = tonumber(ARGV[9]), tonumber(ARGV[10])
local first_event, first_claim = 11 + entries, 11 + entries + events
for i = first_claim, #ARGV, 2 do
  -- Whoever asked for its claims would not have come here: let it ask again.
  if redis.call('HEXISTS', claims, ARGV[i]) == 1 then return 'conflict' end
end
local gone = ARGV[1] == '0' and ARGV[6] or redis.call('HGET', head, 'entries_gone') or '0'
if string.format('%.0f', tonumber(gone) + redis.call('LLEN', ledger)) ~= ARGV[5] then return 'gap' end

-- What can fail comes first.
local unleased = redis.pcall('HINCRBY', head, 'unleased', ARGV[4])
if type(unleased) == 'table' then
  if string.find(unleased.err, 'overflow', 1, true) then return 'range' end
  return unleased
end
if ARGV[1] == '0' then
  redis.call('HSET', head, 'total', '0', 'live', '0')
  if gone ~= '0' then redis.call('HSET', head, 'entries_gone', gone) end
  if restores then redis.call('HSET', head, 'fenced_until', string.format('%.0f', now() + lease)) end
end
redis.call('HSET', head, 'version', ARGV[2], 'book', ARGV[3])
for i = 11, first_event - 1 do redis.call('RPUSH', ledger, ARGV[i]) end
for i = first_event, first_claim - 1 do redis.call('RPUSH', outbox, ARGV[i]) end
for i = first_claim, #ARGV, 2 do redis.call('HSET', claims, ARGV[i], ARGV[i + 1]) end
redis.call('PUBLISH', ARGV[7], ARGV[8])
return 'at'
