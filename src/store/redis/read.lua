-- Reads several things of one account as they were at one instant. Not by MULTI: a Redis that is full refuses that for reads too.
--
-- KEYS one for each command
-- ARGV for each command: its name, how many arguments follow its key, those arguments
-- Answers each command's answer.
local answers, at = {}, 1
for i = 1, #KEYS do
  local name, count = ARGV[at], tonumber(ARGV[at + 1])
  answers[i] = redis.call(name, KEYS[i], unpack(ARGV, at + 2, at + 1 + count))
  at = at + 2 + count
end
return answers
