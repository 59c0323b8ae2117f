-- Takes back what a silent replica has free, unless it has spoken since it was looked at: `Store::lapse`.
--
-- KEYS 1 head, 2 row
-- ARGV 1 seq, 2 spend, 3 committed, 4 held as they were read, 5 what stays committed, 6 what comes back
-- Answers 1 if it was done, 0 if the row has changed.
local now = redis.call('HMGET', KEYS[2], 'seq', 'spend', 'committed', 'held', 'live')
for i = 1, 4 do
  if (now[i] or '0') ~= ARGV[i] then return 0 end
end
if now[5] ~= '1' then return 0 end
-- What can fail comes first.
redis.call('HINCRBY', KEYS[1], 'unleased', ARGV[6])
redis.call('HINCRBY', KEYS[1], 'live', -1)
redis.call('HSET', KEYS[2], 'committed', ARGV[5], 'live', '0')
return 1
