-- Appends events to the global feed. One that stands there already is the same event, relayed twice: an event carries its id.
--
-- KEYS 1 feed, 2 its sequence
-- ARGV 1 how many the feed keeps, 2… events
for i = 2, #ARGV do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], redis.call('INCR', KEYS[2]), ARGV[i])
  end
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[1]))
return 'ok'
