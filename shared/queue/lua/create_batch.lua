-- Add a batch, unless too many batches run.
-- ARGV: id, spec, ttl in ms, then fields and values
-- Returns 1, or 0 if there are too many.
local id, spec, ttl_ms = ARGV[1], ARGV[2], ARGV[3]

if redis.call('ZCARD', ACTIVE_BATCHES) >= ACTIVE_BATCHES_MAX then
  return 0
end
redis.call('HSET', BATCH .. id, 'spec', spec, 'status', 'validating', unpack(ARGV, 4))
redis.call('PEXPIRE', BATCH .. id, ttl_ms)
redis.call('ZADD', BATCHES, 0, id)
redis.call('ZADD', ACTIVE_BATCHES, 0, id)
return 1
