-- Read a job's record and, with a replica, have its terminal event sent there too. A job that no
-- worker has when its deadline is over, or that was cancelled, ends here, so that it does with no
-- worker at all.
-- ARGV: id, replica or '', result in arq's form should it have expired, events for the watchers
local id, replica, result, events = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local status, watchers, deadline_ms =
  unpack(redis.call('HMGET', RECORD .. id, 'status', 'watchers', 'deadline_ms'))

if replica ~= '' and status and is_live(status) then
  local list = ' ' .. (watchers or '') .. ' '
  if not string.find(list, ' ' .. replica .. ' ', 1, true) then
    redis.call('HSET', RECORD .. id, 'watchers', (watchers or '') .. ' ' .. replica)
  end
end
if not conclude_cancelled(id) and tonumber(deadline_ms or math.huge) <= NOW then
  conclude_idle(id, 'expired', result, events)
end
return read_record(id)
