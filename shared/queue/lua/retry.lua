-- Let a job that ended without a result run again from the start, under its id.
-- ARGV: id, token of this request, arq's job, most jobs and most tokens that may wait, the latest
--       time in ms for this to arrive
-- Returns {verdict, record}: 'accepted', also to a client that sends it twice, or 'conflict'; {'late',
-- time in ms}; a refusal, see places.lua; or {'unknown'} where there is no such job.
local id, token, arq_job = ARGV[1], ARGV[2], ARGV[3]
local max_jobs, max_tokens, latest_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local record = RECORD .. id

local known = read_record(id, true)
local payload = redis.call('GET', PAYLOAD .. id)
if not known then
  return {'unknown'}
elseif redis.call('HGET', record, 'retry') == token then
  return {'accepted', known}
elseif NOW > latest_ms then -- its caller was told that it failed
  return {'late', ms(NOW)}
elseif not payload then
  return {'conflict', known}
end

local created_ms, queued_ms, deadline_ms, tokens, idempotency = unpack(redis.call('HMGET', record,
  'created_ms', 'queued_ms', 'deadline_ms', 'tokens', 'idempotency'))
local time_ms = deadline_ms - (queued_ms or created_ms)
local line, score = read_line(), string.format('%.3f', NOW)
local caller = {digest = id, most_places = 1}
local refusal, ahead, place =
  refuse(line, caller, score, tonumber(tokens), time_ms, max_jobs, max_tokens)
if refusal then
  return refusal
end

-- The fence stays: what a worker of an earlier life may still write comes too late.
redis.call('HSET', record, 'payload', payload, 'status', 'queued', 'queued_ms', ms(NOW),
  'deadline_ms', ms(NOW + time_ms), 'score', score, 'attempts', 0, 'watchers', '', 'retry', token)
redis.call('HDEL', record, 'worker', 'started_ms', 'finished_ms', 'cancel_result', 'cancel_events')
-- Who followed the earlier life saw the ids of its tokens and of its end: the next one begins after.
redis.call('HINCRBY', record, 'first_event', redis.call('LLEN', LOG .. id) + 1)
redis.call('PEXPIRE', record, JOB_KEPT_MS)
redis.call('DEL', RESULT .. id, PAYLOAD .. id, LOG .. id)
redis.call('SET', JOB .. id, arq_job, 'PX', JOB_KEPT_MS)
if idempotency then
  redis.call('PEXPIRE', IDEMPOTENCY .. idempotency, JOB_KEPT_MS)
end
redis.call('LREM', DEAD_LETTERS, 0, id)
redis.call('HINCRBY', TOTALS, 'queued', 1)
join_line(id, score, tokens, ahead)
leave_place(place)
index_job(id, 'queued', created_ms)
wake_a_worker()
return {'accepted', read_record(id)}
