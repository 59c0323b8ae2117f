-- Writes a document if its version still stands: `Store::put_document`.
--
-- KEYS 1 document
-- ARGV 1 expected version, 2 new version, 3 body, 4 channel, 5 what is told there
-- Answers 'at' or 'conflict'.
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 'conflict' end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'body', ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 'at'
