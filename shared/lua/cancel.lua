-- Cancel a job: one that waits, or whose worker died, ends here; one that runs, by its worker.
-- ARGV: id, result in arq's form, events for the watchers
-- Returns the record as it is then.
local id, result, events = ARGV[1], ARGV[2], ARGV[3]
local status, worker, attempts =
  unpack(redis.call('HMGET', RECORD .. id, 'status', 'worker', 'attempts'))
local score = tonumber(redis.call('ZSCORE', QUEUE, id) or 0)

if status == 'queued' or status == 'running' and score <= score_for_lease(0) then
  conclude(id, 'cancelled', tonumber(attempts or 0) + begun(id), result, events)
elseif status == 'running' then
  local control = CONTROL .. worker
  redis.call('HSET', RECORD .. id, 'cancel', '1') -- in case the list is lost: renewals see it
  redis.call('RPUSH', control, id)
  redis.call('PEXPIRE', control, JOB_KEPT_MS)
end
return read_record(id)
