-- Cancel a job: one that waits ends here, one that runs is stopped by its worker.
-- ARGV: id, result in arq's form, events for the watchers
-- Returns the record as it is then.
local id, result, events = ARGV[1], ARGV[2], ARGV[3]
local status = redis.call('HGET', RECORD .. id, 'status')

if status == 'queued' then
  redis.call('HSET', RECORD .. id, 'attempts', redis.call('GET', RETRY .. id) or '0')
  conclude(id, 'cancelled', result, events)
elseif status == 'running' then
  local control = CONTROL .. redis.call('HGET', RECORD .. id, 'worker')
  redis.call('HSET', RECORD .. id, 'cancel', '1') -- in case the list is lost: renewals see it
  redis.call('RPUSH', control, id)
  redis.call('PEXPIRE', control, JOB_TTL_MS)
end
return read_record(id)
