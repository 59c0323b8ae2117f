-- Moves accounts to the end of the feed of spend.
--
-- KEYS 1 feed, 2 its sequence
-- ARGV accounts
for i = 1, #ARGV do
  redis.call('ZADD', KEYS[1], redis.call('INCR', KEYS[2]), ARGV[i])
end
return 'ok'
