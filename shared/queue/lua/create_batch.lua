-- Add a batch, unless its idempotency key is known or too many batches run.
-- ARGV: id, spec, ttl in ms; digests of the idempotency key and of the body, or ''; owner or ''
-- Returns the id of the batch, or of the key's first batch; 'conflict' for a key with another body; or 'full'.
local id, spec, ttl_ms, key_digest, body_digest = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local owner = ARGV[6]

local known = key_digest ~= '' and redis.call('GET', IDEMPOTENCY .. key_digest)
if known then
  local known_id, digest = string.match(known, '^(%S+) (%S+)$')
  if redis.call('EXISTS', BATCH .. known_id) == 1 then
    return digest == body_digest and known_id or 'conflict'
  end
end
if redis.call('ZCARD', ACTIVE_BATCHES) >= ACTIVE_BATCHES_MAX then
  return 'full'
end
redis.call('HSET', BATCH .. id, 'spec', spec, 'status', 'validating')
redis.call('PEXPIRE', BATCH .. id, ttl_ms)
redis.call('ZADD', BATCHES, 0, id)
if owner ~= '' then
  redis.call('ZADD', OWNER_BATCHES .. owner, 0, id)
  redis.call('PEXPIRE', OWNER_BATCHES .. owner, OWNER_BATCHES_TTL_MS)
end
redis.call('ZADD', ACTIVE_BATCHES, 0, id)
if key_digest ~= '' then
  redis.call('SET', IDEMPOTENCY .. key_digest, id .. ' ' .. body_digest, 'PX', ttl_ms)
end
return id
