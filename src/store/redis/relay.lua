-- Appends events to the global feed. One that stands there already is the same event, relayed twice: an event carries its id.
--
-- A place in the feed is the time in µs, or the one after the last where that is later: so a Redis that was emptied, set back or
-- failed over never hands out a place that a reader has passed. Whole to 2^53 µs, which is the year 2255.
--
-- KEYS 1 feed, 2 its sequence
-- ARGV 1 how many the feed keeps, 2… events
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
for i = 2, #ARGV do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    last = math.max(last + 1, now)
    local place = string.format('%.0f', last)
    redis.call('SET', KEYS[2], place)
    redis.call('ZADD', KEYS[1], place, ARGV[i])
  end
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[1]))
return 'ok'
