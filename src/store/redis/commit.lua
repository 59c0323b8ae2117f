-- Writes a book if its version still stands: `Store::commit`. All of it or nothing.
--
-- KEYS 1 head, 2 ledger, 3 claims, 4 outbox
-- ARGV 1 expected version, 2 new version, 3 book, 4 credit difference, 5 entries before, 6 channel, 7 what is told there,
--      8 number of entries, 9 number of events, 10… entries, then events, then claims: name, claim
-- Answers 'at', 'conflict', 'range' or 'gap'.
local head, ledger, claims, outbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

if (redis.call('HGET', head, 'version') or '0') ~= ARGV[1] then return 'conflict' end
local entries, events = tonumber(ARGV[8]), tonumber(ARGV[9])
local first_event, first_claim = 10 + entries, 10 + entries + events
for i = first_claim, #ARGV, 2 do
  -- Whoever asked for its claims would not have come here: let it ask again.
  if redis.call('HEXISTS', claims, ARGV[i]) == 1 then return 'conflict' end
end
if string.format('%.0f', redis.call('LLEN', ledger)) ~= ARGV[5] then return 'gap' end

-- What can fail comes first.
local unleased = redis.pcall('HINCRBY', head, 'unleased', ARGV[4])
if type(unleased) == 'table' then
  if string.find(unleased.err, 'overflow', 1, true) then return 'range' end
  return unleased
end
if ARGV[1] == '0' then redis.call('HSET', head, 'total', '0', 'live', '0') end
redis.call('HSET', head, 'version', ARGV[2], 'book', ARGV[3])
for i = 10, first_event - 1 do redis.call('RPUSH', ledger, ARGV[i]) end
for i = first_event, first_claim - 1 do redis.call('RPUSH', outbox, ARGV[i]) end
for i = first_claim, #ARGV, 2 do redis.call('HSET', claims, ARGV[i], ARGV[i + 1]) end
redis.call('PUBLISH', ARGV[6], ARGV[7])
return 'at'
