-- Cancel a batch of waiting jobs and return the next batch; called until that is empty.
-- ARGV: most jobs to return; only jobs created up to this ms, '' for now; then for each job to cancel: id,
--       result in arq's form, events for the subscribers
-- Returns {number of cancelled jobs, the ms in use, ids of waiting jobs}.
local limit, until_ms, num_cancelled = ARGV[1], ARGV[2], 0
if until_ms == '' then
  until_ms = ms(NOW)
end

for i = 3, #ARGV, 3 do
  if finish_unowned(ARGV[i], 'cancelled', ARGV[i + 1], ARGV[i + 2]) then
    num_cancelled = num_cancelled + 1
  elseif redis.call('EXISTS', RECORD .. ARGV[i]) == 0 then
    redis.call('ZREM', JOB_INDEX, ARGV[i]) -- its record has expired: do not return it again
  end
end
return {num_cancelled, until_ms, redis.call('ZRANGEBYSCORE', JOB_INDEX, index_score('queued', 0),
  index_score('queued', until_ms), 'LIMIT', 0, limit)}
