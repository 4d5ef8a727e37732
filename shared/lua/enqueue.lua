-- Accept one job, unless its idempotency key is taken or the queue is full.
-- ARGV: id, payload, arq's job, rows, tokens, head start in ms, result ttl in ms, watcher or '',
--       most jobs that may wait, idempotency digest or '', digest of the body
-- Returns {verdict, id, position, created_ms}; a client that sends it twice gets the same answer.
local id, payload, arq_job, rows, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local head_start_ms, ttl_ms, watcher, max_queued = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local key_digest, body_digest = ARGV[10], ARGV[11]

local function answer(verdict, job_id)
  local rank = redis.call('ZRANK', QUEUE, job_id)
  return {verdict, job_id, (rank or 0) + 1, redis.call('HGET', RECORD .. job_id, 'created_ms')}
end

if redis.call('EXISTS', RECORD .. id) == 1 then
  return answer('accepted', id)
end
if key_digest ~= '' then
  local earlier = redis.call('GET', IDEMPOTENCY .. key_digest)
  if earlier then
    local job_id, digest = string.match(earlier, '^(%S+) (%S+)$')
    if redis.call('EXISTS', RECORD .. job_id) == 1 then
      return answer(digest == body_digest and 'replayed' or 'conflict', job_id)
    end
  end
end
if waiting() >= max_queued then
  return {'full', id, 0, '0'}
end

local score = NOW - head_start_ms
redis.call('HSET', RECORD .. id,
  'payload', payload, 'status', 'queued', 'created_ms', ms(NOW), 'ttl_ms', ttl_ms,
  'rows', rows, 'tokens', tokens, 'score', string.format('%.3f', score),
  'reply_to', watcher, 'watchers', watcher)
redis.call('PEXPIRE', RECORD .. id, JOB_TTL_MS)
redis.call('SET', JOB .. id, arq_job, 'PX', JOB_TTL_MS)
if key_digest ~= '' then
  redis.call('HSET', RECORD .. id, 'idempotency', key_digest)
  redis.call('SET', IDEMPOTENCY .. key_digest, id .. ' ' .. body_digest, 'PX', JOB_TTL_MS)
end
redis.call('ZADD', QUEUE, string.format('%.3f', score), id)
wake_a_worker()
return answer('accepted', id)
