-- Accept one job, unless its idempotency key is taken or the line is too long. A job that retries
-- another one is accepted once, and takes over its idempotency key.
-- ARGV: id, payload, arq's job, rows, tokens, head start in ms, time it has in ms, result ttl in
--       ms, watcher or '', most jobs and most tokens that may wait, digest of the idempotency key
--       or '', digest of the body or '', id of the job to retry or '', the latest time in ms for this to arrive
-- Returns {verdict, id, created_ms, outlook}, the same to a client that sends it twice; {'late',
-- time in ms}; {'unknown'} where the job to retry has expired; or a refusal, see backlog.lua.
local id, payload, arq_job, rows, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local head_start_ms, time_ms, ttl_ms, watcher = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local max_jobs, max_tokens = tonumber(ARGV[10]), tonumber(ARGV[11])
local key_digest, body_digest, retry_of = ARGV[12], ARGV[13], ARGV[14]
local latest_ms = tonumber(ARGV[15])
local line = read_line()

local function answer(verdict, job_id, created_ms)
  return {verdict, job_id, created_ms, outlook(job_id, line)}
end

-- The idempotency key finds this job from now on.
local function bind_key(digest, body)
  redis.call('HSET', RECORD .. id, 'idempotency', digest)
  redis.call('SET', IDEMPOTENCY .. digest, id .. ' ' .. body, 'PX', JOB_KEPT_MS)
end

local function take_over_key()
  local digest = redis.call('HGET', RECORD .. retry_of, 'idempotency')
  local job_id, body = string.match(digest and redis.call('GET', IDEMPOTENCY .. digest) or '',
    '^(%S+) (%S+)$')
  if job_id == retry_of then
    bind_key(digest, body)
  end
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
if retry_of ~= '' then
  local retry = redis.call('HGET', RECORD .. retry_of, 'retried_as')
  known_since = retry and redis.call('HGET', RECORD .. retry, 'created_ms')
  if known_since then
    return answer('replayed', retry, known_since)
  elseif redis.call('EXISTS', PAYLOAD .. retry_of) == 0 then
    return {'unknown'}
  end
end
if NOW > latest_ms then -- its caller was told that it failed
  return {'late', ms(NOW)}
end
local score = string.format('%.3f', NOW - head_start_ms)
local refusal = refuse(line, score, tonumber(tokens), tonumber(time_ms), max_jobs, max_tokens)
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
  bind_key(key_digest, body_digest)
end
if retry_of ~= '' then
  redis.call('HSET', RECORD .. id, 'retry_of', retry_of)
  redis.call('HSET', RECORD .. retry_of, 'retried_as', id)
  redis.call('LREM', DEAD_LETTERS, 0, retry_of)
  take_over_key()
end
redis.call('HINCRBY', TOTALS, 'queued', 1)
join_line(id, score, tokens)
index_job(id, 'queued', ms(NOW))
wake_a_worker()
return answer('accepted', id, ms(NOW))
