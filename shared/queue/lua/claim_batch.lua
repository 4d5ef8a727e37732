-- Lease the batch that has waited longest without an owner.
-- ARGV: lease in ms
-- Returns {id, fencing token}, or false if every batch has an owner.
local lease_ms = tonumber(ARGV[1])

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ACTIVE_BATCHES, '-inf', NOW, 'LIMIT', 0, 100)) do
  local previous = redis.call('HGET', BATCH .. id, 'fencing_token')
  if redis.call('EXISTS', BATCH .. id) == 0 then -- Redis lost it
    redis.call('ZREM', ACTIVE_BATCHES, id)
  else
    local fencing_token = ms(math.max(tonumber(previous or 0) + 1, NOW))
    redis.call('HSET', BATCH .. id, 'fencing_token', fencing_token)
    redis.call('ZADD', ACTIVE_BATCHES, ms(NOW + lease_ms), id)
    return {id, fencing_token}
  end
end
return false
