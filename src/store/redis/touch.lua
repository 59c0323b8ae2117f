-- Moves accounts to the end of the feed of spend. Places are given out as in `relay.lua`, and for the same reason.
--
-- KEYS 1 feed, 2 its sequence
-- ARGV accounts
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
for i = 1, #ARGV do
  last = math.max(last + 1, now)
  redis.call('ZADD', KEYS[1], string.format('%.0f', last), ARGV[i])
end
redis.call('SET', KEYS[2], string.format('%.0f', last))
return 'ok'
