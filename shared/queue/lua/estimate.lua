-- Estimate what would become of a job that is enqueued now, without enqueueing it.
-- ARGV: cost in tokens, head start in ms, deadline in ms from now, most jobs and most tokens that may wait
-- Returns {estimate, ms of its run or false, refusal or false}, see backlog.lua.
local tokens, head_start_ms, deadline_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_jobs, max_tokens = tonumber(ARGV[4]), tonumber(ARGV[5])
local score = string.format('%.3f', NOW - head_start_ms)

require_free_memory() -- Redis at its memory limit would refuse the job too
local backlog = read_backlog()
local refused = refuse(backlog, score, tokens, deadline_ms, max_jobs, max_tokens)
local ahead = redis.call('ZCOUNT', QUEUE, '-inf', '(' .. score)
return {estimate_behind(ahead, backlog), estimate_run(tokens, backlog), refused or false}
