-- Writes a document if its version still stands: `Store::put_document`.
--
-- KEYS 1 document
-- ARGV 1 whether the history is fenced for what it brings, 2 expected version, 3 new version, 4 body, 5 channel, 6 what is told there
-- Answers 'at', 'conflict' or 'fenced'.
if ARGV[1] == '1' then return 'fenced' end
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[2] then return 'conflict' end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'body', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 'at'
