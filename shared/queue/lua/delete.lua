-- Delete what clients can read of a job: result, tokens, payload and response. A job that has not ended
-- loses its result as soon as it ends. The record stays until it expires, so that no worker ends the job
-- again. The idempotency key is free for another job.
-- ARGV: id
local id = ARGV[1]
local status, digest = unpack(redis.call('HMGET', RECORD .. id, 'status', 'idempotency'))

redis.call('DEL', ARQ_RESULT .. id, TOKEN_LOG .. id, RETRY_PAYLOAD .. id, RESPONSE .. id)
if status and is_live(status) then
  redis.call('HSET', RECORD .. id, 'ttl_ms', 1)
end
if digest then
  local owner = string.match(redis.call('GET', IDEMPOTENCY .. digest) or '', '^%S+')
  if owner == id then
    redis.call('DEL', IDEMPOTENCY .. digest)
  end
end
