-- Start the run of a claimed job: extend its lease to the full length, and count the death of its worker
-- as an attempt from now on.
-- ARGV: id, worker, fencing token, lease in ms, attempts before this run. A claim counts a run as dead,
--       also if the worker claims its own running job again; this corrects the count.
-- Returns 0 if the worker no longer owns the lease, 1, or 2 if a client has cancelled the job.
local id, worker, fencing_token, lease_ms, attempts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if not owns_lease(id, worker, fencing_token) then
  return 0
end
redis.call('ZADD', QUEUE, lease_score(lease_ms), id)
redis.call('SET', ARQ_RETRY .. id, '1', 'PX', JOB_KEPT_MS)
if redis.call('EXISTS', RECORD .. id) == 1 then -- a record that Redis lost returns with a renewal
  redis.call('HSET', RECORD .. id, 'attempts', attempts)
end
return 1 + redis.call('HEXISTS', RECORD .. id, 'cancel_result')
