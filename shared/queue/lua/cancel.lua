-- Cancel a job. One without a valid lease ends here; a running job is ended by its worker.
-- ARGV: id, owner that must be the job's or '', result in arq's form, events for the subscribers
-- Returns the record as of now, see read_record; false if the owner may not see it.
local id, owner, result, events = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not is_visible(id, owner) then
  return false
end
local status, worker, attempts, trail =
  unpack(redis.call('HMGET', RECORD .. id, 'status', 'worker', 'attempts', 'trail'))

if not finish_unowned(id, 'cancelled', result, events) and status == 'running' then
  local control = CONTROL .. worker
  -- The next renewal reports it too, in case Redis loses the list.
  redis.call('HSET', RECORD .. id, 'cancel_result', result, 'cancel_events', events,
    'trail', extended_trail(trail, 'cancel_requested', attempts or 0, worker))
  redis.call('RPUSH', control, id)
  redis.call('PEXPIRE', control, UNFINISHED_JOB_TTL_MS)
end
return read_record(id)
