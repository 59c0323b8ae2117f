-- Writes a key's record and raises its account's version, if that still stands: `Store::put_key`.
--
-- KEYS 1 head, 2 keys
-- ARGV 1 expected version, 2 new version, 3 key, 4 record, 5 channel, 6 what is told there
-- Answers 'at' or 'conflict'.
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 'conflict' end
redis.call('HSET', KEYS[1], 'version', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 'at'
