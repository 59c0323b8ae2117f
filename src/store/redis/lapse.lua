-- Takes back what a silent replica has, unless it has spoken since it was looked at: `shared::lapse`, and `shared::retire` if its row
-- becomes a tombstone.
--
-- KEYS 1 head, 2 row, 3 replicas, 4 tombstones
-- ARGV 1 replica, 2 seq, 3 spend, 4 committed, 5 held, 6 live as they were read, 7 what stays committed, 8 what comes back, 9 whether
--      it is retired
-- Answers 1 if it was done, 0 if the row has changed.
local head, row = KEYS[1], KEYS[2]
local now = redis.call('HMGET', row, 'seq', 'spend', 'committed', 'held', 'live', 'rate', 'rate_demand', 'places', 'places_demand')
for i = 1, 5 do
  if (now[i] or '0') ~= ARGV[i + 1] then return 0 end
end
-- What can fail comes first.
redis.call('HINCRBY', head, 'unleased', ARGV[8])
if now[5] == '1' then redis.call('HINCRBY', head, 'live', -1) end
local time = redis.call('TIME')
for i, name in ipairs({'rate', 'places'}) do
  local share, demand = tonumber(now[4 + 2 * i] or '0'), tonumber(now[5 + 2 * i] or '0')
  if share > 0 then
    redis.call('HSET', head, name .. '_ms', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
    redis.call('HINCRBY', head, name, string.format('%.0f', -share))
  end
  if demand > 0 then redis.call('HINCRBY', head, name .. '_demand', string.format('%.0f', -demand)) end
end
if ARGV[9] == '1' then
  redis.call('HSET', KEYS[4], ARGV[1], ARGV[3] .. '|' .. ARGV[2])
  redis.call('SREM', KEYS[3], ARGV[1])
  redis.call('DEL', row)
else
  redis.call('HSET', row, 'committed', ARGV[7], 'live', '0')
  redis.call('HDEL', row, 'rate', 'rate_demand', 'places', 'places_demand')
end
return 1
