-- Name jobs that wait though their deadline is over.
-- ARGV: most jobs to name
-- Returns their ids.
local limit, ids = tonumber(ARGV[1]), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE, '-inf', '(' .. LEASED)) do
  if #ids == limit then
    break
  end
  if tonumber(redis.call('HGET', RECORD .. id, 'deadline_ms') or math.huge) <= NOW then
    ids[#ids + 1] = id
  end
end
return ids
