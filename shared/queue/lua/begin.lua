-- A claimed job's run begins: its lease gets its full length, and its worker's death counts from now.
-- ARGV: id, worker, fence, lease in ms, attempts that died before: the worker may have claimed a run
--       of its own again, which counted it as dead
-- Returns 0 when the job is another's by now or has ended, 1, or 2 when a caller cancelled it.
local id, worker, fence, lease_ms, attempts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if not holds(id, worker, fence) then
  return 0
end
redis.call('ZADD', QUEUE, score_for_lease(lease_ms), id)
redis.call('SET', RETRY .. id, '1', 'PX', JOB_KEPT_MS)
if redis.call('EXISTS', RECORD .. id) == 1 then -- else Redis lost it: a renewal brings it back
  redis.call('HSET', RECORD .. id, 'attempts', attempts)
end
return 1 + redis.call('HEXISTS', RECORD .. id, 'cancel')
