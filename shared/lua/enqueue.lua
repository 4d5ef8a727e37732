-- Accept one job, unless its idempotency key is taken or the queue is full.
-- ARGV: id, payload, arq's job, rows, tokens, head start in ms, time it has in ms, result ttl in
--       ms, watcher or '', most jobs that may wait, idempotency digest or '', digest of the body
-- Returns {verdict, id, position, created_ms}; a client that sends it twice gets the same answer.
local id, payload, arq_job, rows, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local head_start_ms, time_ms, ttl_ms, watcher = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local max_queued, key_digest, body_digest = tonumber(ARGV[10]), ARGV[11], ARGV[12]

local function answer(verdict, job_id, created_ms)
  local rank = redis.call('ZRANK', QUEUE, job_id)
  return {verdict, job_id, (rank or 0) + 1, created_ms}
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
if waiting() >= max_queued then
  -- Jobs that no worker came for have lost their records by now: they take up no room.
  redis.call('ZREMRANGEBYSCORE', QUEUE, '-inf', NOW - JOB_KEPT_MS)
  if waiting() >= max_queued then
    return {'full', id, 0, '0'}
  end
end

local score = string.format('%.3f', NOW - head_start_ms)
redis.call('HSET', RECORD .. id,
  'payload', payload, 'status', 'queued', 'created_ms', ms(NOW), 'deadline_ms', ms(NOW + time_ms),
  'ttl_ms', ttl_ms, 'rows', rows, 'tokens', tokens, 'score', score,
  'reply_to', watcher, 'watchers', watcher)
redis.call('PEXPIRE', RECORD .. id, JOB_KEPT_MS)
redis.call('SET', JOB .. id, arq_job, 'PX', JOB_KEPT_MS)
if key_digest ~= '' then
  redis.call('HSET', RECORD .. id, 'idempotency', key_digest)
  redis.call('SET', IDEMPOTENCY .. key_digest, id .. ' ' .. body_digest, 'PX', JOB_KEPT_MS)
end
redis.call('HINCRBY', TOTALS, 'queued', 1)
redis.call('ZADD', QUEUE, score, id)
wake_a_worker()
return answer('accepted', id, ms(NOW))
