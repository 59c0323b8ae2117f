-- Ends an account if its version still stands: `Store::purge`. From here on nothing finds it; what is left of it is deleted after that,
-- and again by whoever repeats it.
--
-- KEYS 1 head
-- ARGV 1 whether the history is fenced, 2 expected version, 3 when, in ns since 1970
-- Answers 'at', 'before', 'none', 'conflict' or 'fenced'.
if redis.call('HEXISTS', KEYS[1], 'purged') == 1 then return 'before' end
if ARGV[1] == '1' then return 'fenced' end
local version = redis.call('HGET', KEYS[1], 'version')
if not version then return 'none' end
if version ~= ARGV[2] then return 'conflict' end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'purged', ARGV[3])
return 'at'
