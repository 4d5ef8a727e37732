-- Let a job that ended without a result run again from the start, under its id.
-- ARGV: id, token of this request, arq's job, most jobs and most tokens that may wait
-- Returns {verdict, record}: 'accepted', also to a client that sends it twice, or 'conflict'; or a
-- refusal, see places.lua; false where there is no such job.
local id, token, arq_job = ARGV[1], ARGV[2], ARGV[3]
local max_jobs, max_tokens = tonumber(ARGV[4]), tonumber(ARGV[5])
local record = RECORD .. id

local known = read_record(id, true)
local payload = redis.call('GET', PAYLOAD .. id)
if not known then
  return false
elseif not payload then
  local is_repeated = redis.call('HGET', record, 'retry') == token
  return {is_repeated and 'accepted' or 'conflict', known}
end

local created_ms, queued_ms, deadline_ms, tokens, idempotency, worker = unpack(redis.call('HMGET',
  record, 'created_ms', 'queued_ms', 'deadline_ms', 'tokens', 'idempotency', 'worker'))
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
if worker then
  redis.call('LREM', CONTROL .. worker, 0, id) -- a cancellation of the earlier life
end
redis.call('HINCRBY', TOTALS, 'queued', 1)
join_line(id, score, tokens, ahead)
leave_place(place)
index_job(id, 'queued', created_ms)
wake_a_worker()
return {'accepted', read_record(id)}
