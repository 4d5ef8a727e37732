-- Start the run of a claimed job: extend its lease to the full length. From now on the death of its worker
-- counts as an attempt.
-- ARGV: id, worker, fencing token, lease in ms, attempts before this run. A claim of an expired lease counts
--       an attempt, even if the same worker still runs the job. The last argument corrects that count.
-- Returns 0 if the worker no longer owns the lease, 1, or 2 if a client has cancelled the job.
local id, worker, fencing_token, lease_ms, attempts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if not owns_lease(id, worker, fencing_token) then
  return 0
end
redis.call('ZADD', QUEUE, lease_score(lease_ms), id)
redis.call('SET', ARQ_RETRY .. id, '1', 'PX', UNFINISHED_JOB_TTL_MS)
local status, trail = unpack(redis.call('HMGET', RECORD .. id, 'status', 'trail'))
if status then -- a record that Redis lost returns with a renewal
  redis.call('HSET', RECORD .. id, 'attempts', attempts,
    'trail', extended_trail(trail, 'started', attempts, worker))
end
return 1 + redis.call('HEXISTS', RECORD .. id, 'cancel_result')
