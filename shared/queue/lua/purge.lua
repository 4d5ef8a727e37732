-- Cancel a batch of waiting jobs, and name the next: called again until there is none.
-- ARGV: most jobs to name, only those created up to this ms or '' for now, then of each job to
--       cancel: id, result in arq's form, events for the watchers
-- Returns {number cancelled, the ms in use, ids of jobs that wait}.
local limit, until_ms, cancelled = ARGV[1], ARGV[2], 0
if until_ms == '' then
  until_ms = ms(NOW)
end

for i = 3, #ARGV, 3 do
  if conclude_idle(ARGV[i], 'cancelled', ARGV[i + 1], ARGV[i + 2]) then
    cancelled = cancelled + 1
  elseif redis.call('EXISTS', RECORD .. ARGV[i]) == 0 then
    redis.call('ZREM', JOBS, ARGV[i]) -- nothing is left to cancel; it must not be named again
  end
end
return {cancelled, until_ms, redis.call('ZRANGEBYSCORE', JOBS, index_score('queued', 0),
  index_score('queued', until_ms), 'LIMIT', 0, limit)}
