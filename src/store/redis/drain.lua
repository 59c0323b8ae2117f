-- Removes relayed events from an account's outbox. Somebody else may have removed some of them meanwhile.
--
-- KEYS 1 outbox
-- ARGV events, from the oldest
for i = 1, #ARGV do
  if redis.call('LINDEX', KEYS[1], 0) == ARGV[i] then redis.call('LPOP', KEYS[1]) end
end
return 'ok'
