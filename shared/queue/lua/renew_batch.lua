-- Extend the lease over a batch, or release the batch with a lease of 0.
-- ARGV: id, fencing token, lease in ms
-- Returns the status of the batch; false if another owner has the lease.
local id, fencing_token, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

if not owns_batch(id, fencing_token) then
  return false
end
redis.call('ZADD', ACTIVE_BATCHES, 'XX', lease_ms > 0 and ms(NOW + lease_ms) or 0, id)
return redis.call('HGET', BATCH .. id, 'status')
