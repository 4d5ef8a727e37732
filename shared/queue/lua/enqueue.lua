-- Accept one job, unless its idempotency key is known or the backlog is too long. A job may retry an
-- earlier one: each job has one retry, which takes over its idempotency key. The token log of a job may
-- begin with that of an earlier one.
-- ARGV: id, payload, arq's job, cost in rows, cost in tokens;
--       head start in ms, deadline in ms from now, ttl of the result in ms, subscriber or '';
--       most jobs and most tokens that may wait;
--       digests of the idempotency key and of the body, or '';
--       id of the job to retry or ''; field `origin` of the record or '';
--       id of the job whose token log is copied or '', number of deltas to copy;
--       request of a response or '', metadata of the client or '';
--       owner or ''; time in ms from which on the job is not accepted.
-- Returns {'accepted', 'replayed' or 'conflict', id, created_ms, estimate}, again when it is sent twice;
-- {'late', time in ms}; {'unknown'} if the earlier job has expired; or a refusal, see backlog.lua.
local id, payload, arq_job, rows, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local head_start_ms, deadline_ms, ttl_ms, subscriber = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local max_jobs, max_tokens = tonumber(ARGV[10]), tonumber(ARGV[11])
local key_digest, body_digest, retry_of = ARGV[12], ARGV[13], ARGV[14]
local origin, log_of, num_deltas = ARGV[15], ARGV[16], tonumber(ARGV[17])
local response, metadata, owner, accept_before_ms = ARGV[18], ARGV[19], ARGV[20], tonumber(ARGV[21])
if retry_of ~= '' then
  use_model(redis.call('HGET', RECORD .. retry_of, 'model'))
end
local backlog = read_backlog()

local function reply(verdict, job_id, created_ms)
  return {verdict, job_id, created_ms, estimate(job_id, backlog)}
end

-- The idempotency key finds this job from now on.
local function bind_key(digest, body)
  redis.call('HSET', RECORD .. id, 'idempotency', digest)
  redis.call('SET', IDEMPOTENCY .. digest, id .. ' ' .. body, 'PX', UNFINISHED_JOB_TTL_MS)
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
  return reply('accepted', id, known_since)
end
if key_digest ~= '' then
  local known = redis.call('GET', IDEMPOTENCY .. key_digest)
  if known then
    local job_id, digest = string.match(known, '^(%S+) (%S+)$')
    local model
    known_since, model = unpack(redis.call('HMGET', RECORD .. job_id, 'created_ms', 'model'))
    if known_since then
      use_model(model)
      backlog = read_backlog()
      return reply(digest == body_digest and 'replayed' or 'conflict', job_id, known_since)
    end
  end
end
if retry_of ~= '' then
  local retry, status, origin_of_first =
    unpack(redis.call('HMGET', RECORD .. retry_of, 'retried_as', 'status', 'origin'))
  origin = origin_of_first or ''
  known_since = retry and redis.call('HGET', RECORD .. retry, 'created_ms')
  if known_since then
    return reply('replayed', retry, known_since)
  elseif status == 'succeeded' or redis.call('EXISTS', RETRY_PAYLOAD .. retry_of) == 0 then
    return {'unknown'}
  end
end
if num_deltas > 0 and redis.call('LLEN', TOKEN_LOG .. log_of) < num_deltas then
  return {'unknown'}
end
if NOW > accept_before_ms then -- the api has answered 503 by now
  return {'late', ms(NOW)}
end
local score = string.format('%.3f', NOW - head_start_ms)
local refused =
  refuse(backlog, score, tonumber(tokens), tonumber(deadline_ms), max_jobs, max_tokens)
if refused then
  write_backlog(backlog, {'retry_slot_ms'})
  return refused
end

redis.call('HSET', RECORD .. id,
  'payload', payload, 'status', 'queued', 'created_ms', ms(NOW),
  'deadline_ms', ms(NOW + deadline_ms), 'ttl_ms', ttl_ms, 'cost_rows', rows, 'cost_tokens', tokens,
  'queue_score', score, 'subscribers', subscriber)
write_model(id)
write_owner(id, owner)
if metadata ~= '' then
  redis.call('HSET', RECORD .. id, 'metadata', metadata)
end
redis.call('PEXPIRE', RECORD .. id, UNFINISHED_JOB_TTL_MS)
redis.call('SET', ARQ_JOB .. id, arq_job, 'PX', UNFINISHED_JOB_TTL_MS)
if num_deltas > 0 then
  redis.call('COPY', TOKEN_LOG .. log_of, TOKEN_LOG .. id)
  redis.call('LTRIM', TOKEN_LOG .. id, 0, num_deltas - 1)
  redis.call('PEXPIRE', TOKEN_LOG .. id, UNFINISHED_JOB_TTL_MS)
end
if origin ~= '' then
  redis.call('HSET', RECORD .. id, 'origin', origin)
end
if key_digest ~= '' then
  bind_key(key_digest, body_digest)
end
if retry_of ~= '' then
  redis.call('HSET', RECORD .. id, 'retry_of', retry_of)
  redis.call('HSET', RECORD .. retry_of, 'retried_as', id)
  redis.call('LREM', DEAD_LETTERS, 0, retry_of)
  response = redis.call('GET', RESPONSE .. retry_of) or ''
  take_over_key()
end
if response ~= '' then
  redis.call('SET', RESPONSE .. id, response, 'PX', UNFINISHED_JOB_TTL_MS)
end
redis.call('HINCRBY', TOTALS, 'queued', 1)
add_to_backlog(id, score, tokens)
index_job(id, 'queued', ms(NOW))
wake_a_worker()
return reply('accepted', id, ms(NOW))
