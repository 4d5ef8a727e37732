-- A claimed job's run begins: its lease gets its full length, and its worker's death counts from now.
-- ARGV: id, worker, fence, lease in ms
-- Returns 1, or 0 when the job is another's by now or has ended.
local id, worker, fence, lease_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if not holds(id, worker, fence) then
  return 0
end
redis.call('ZADD', QUEUE, score_for_lease(lease_ms), id)
redis.call('SET', RETRY .. id, '1', 'PX', JOB_KEPT_MS)
return 1
