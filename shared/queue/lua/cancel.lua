-- Cancel a job: one that waits, or whose worker died, ends here; one that runs, by its worker.
-- ARGV: id, result in arq's form, events for the watchers
-- Returns the record as it is then.
local id, result, events = ARGV[1], ARGV[2], ARGV[3]
local status, worker = unpack(redis.call('HMGET', RECORD .. id, 'status', 'worker'))

if not conclude_idle(id, 'cancelled', result, events) and status == 'running' then
  local control = CONTROL .. worker
  -- In case the list is lost: renewals see it.
  redis.call('HSET', RECORD .. id, 'cancel', '1', 'cancel_result', result,
    'cancel_events', events)
  redis.call('RPUSH', control, id)
  redis.call('PEXPIRE', control, JOB_KEPT_MS)
end
return read_record(id)
