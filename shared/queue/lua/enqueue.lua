-- Accept one job, unless its idempotency key is taken or the line is too long.
-- ARGV: id, payload, arq's job, rows, tokens, head start in ms, time it has in ms, result ttl in
--       ms, watcher or '', most jobs and most tokens that may wait, idempotency digest or '',
--       digest of the body, the latest time in ms for this to arrive
-- Returns {verdict, id, created_ms, outlook}, the same to a client that sends it twice; {'late',
-- time in ms}; or a refusal, see places.lua.
local id, payload, arq_job, rows, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local head_start_ms, time_ms, ttl_ms, watcher = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local max_jobs, max_tokens = tonumber(ARGV[10]), tonumber(ARGV[11])
local key_digest, body_digest, latest_ms = ARGV[12], ARGV[13], tonumber(ARGV[14])
local line = read_line()

local function answer(verdict, job_id, created_ms)
  return {verdict, job_id, created_ms, outlook(job_id, line)}
end

local known_since = redis.call('HGET', RECORD .. id, 'created_ms')
if known_since then
  return answer('accepted', id, known_since)
end
if key_digest ~= '' then
  local earlier = redis.call('GET', IDEMPOTENCY .. key_digest)
  if earlier then
    local job_id, digest = string.match(earlier, '^(%S+) (%S+)$')
    known_since = redis.call('HGET', RECORD .. job_id, 'created_ms')
    if known_since then
      return answer(digest == body_digest and 'replayed' or 'conflict', job_id, known_since)
    end
  end
end
if NOW > latest_ms then -- its caller was told that it failed
  return {'late', ms(NOW)}
end
local score = string.format('%.3f', NOW - head_start_ms)
local caller = {digest = body_digest, most_places = SAME_BODY_PLACES}
if key_digest ~= '' then
  caller = {digest = key_digest, most_places = 1}
end
local refusal, ahead, place =
  refuse(line, caller, score, tonumber(tokens), tonumber(time_ms), max_jobs, max_tokens)
if refusal then
  return refusal
end

redis.call('HSET', RECORD .. id,
  'payload', payload, 'status', 'queued', 'created_ms', ms(NOW), 'deadline_ms', ms(NOW + time_ms),
  'ttl_ms', ttl_ms, 'rows', rows, 'tokens', tokens, 'score', score,
  'watchers', watcher)
redis.call('PEXPIRE', RECORD .. id, JOB_KEPT_MS)
redis.call('SET', JOB .. id, arq_job, 'PX', JOB_KEPT_MS)
if key_digest ~= '' then
  redis.call('HSET', RECORD .. id, 'idempotency', key_digest)
  redis.call('SET', IDEMPOTENCY .. key_digest, id .. ' ' .. body_digest, 'PX', JOB_KEPT_MS)
end
redis.call('HINCRBY', TOTALS, 'queued', 1)
join_line(id, score, tokens, ahead)
leave_place(place)
index_job(id, 'queued', ms(NOW))
wake_a_worker()
return answer('accepted', id, ms(NOW))
