-- Read the record of a job, and subscribe an api replica to its events. A job without a valid lease
-- ends here if it was cancelled or its deadline has passed, so that it ends without any worker.
-- ARGV: id, owner that must be the job's or '', replica or '', result in arq's form if it expires, events for
-- the subscribers
-- Returns the record as of now, see read_record; false if the owner may not see it.
local id, owner, replica, result, events = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not is_visible(id, owner) then
  return false
end
local status, subscribers, deadline_ms =
  unpack(redis.call('HMGET', RECORD .. id, 'status', 'subscribers', 'deadline_ms'))

if replica ~= '' and status and is_live(status) then
  subscribers = subscribers or ''
  if not string.find(' ' .. subscribers .. ' ', ' ' .. replica .. ' ', 1, true) then
    redis.call('HSET', RECORD .. id, 'subscribers', subscribers .. ' ' .. replica)
  end
end
if not finish_cancelled(id) and tonumber(deadline_ms or math.huge) <= NOW then
  finish_unowned(id, 'expired', result, events)
end
return read_record(id)
