-- How long a history has been known here: the first word on a new connection.
--
-- KEYS 1 histories, 2 index of accounts
-- ARGV 1 the history, 2 how many are kept, 3 '1' if whoever asks has seen accounts here
-- Answers its age in ms, or -1 if it has been known from the start (there was no account then that could have been lost), and since when
-- it is known, as it stands in the hash: below zero if from the start, so that a second start is another one.
local function whole(number) return string.format('%.0f', number) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local since = redis.call('HGET', KEYS[1], ARGV[1])
local empty = redis.call('EXISTS', KEYS[2]) == 0

if not since then
  -- The oldest goes. Should it be in use, it is taken for a new one, and its lease time runs again: too careful, not too little.
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then
    local all, oldest = redis.call('HGETALL', KEYS[1]), 1
    for i = 3, #all, 2 do
      if tonumber(all[i + 1]) < tonumber(all[oldest + 1]) then oldest = i end
    end
    redis.call('HDEL', KEYS[1], all[oldest])
  end
  since = whole((empty and ARGV[3] ~= '1') and -now or now)
  redis.call('HSET', KEYS[1], ARGV[1], since)
elseif tonumber(since) > now or (tonumber(since) <= 0 and empty and ARGV[3] == '1') then
  -- The clock was set back; or it was called new by one who could not know that it had been emptied.
  since = whole(now)
  redis.call('HSET', KEYS[1], ARGV[1], since)
end
since = tonumber(since)
return {since <= 0 and -1 or now - since, since}
