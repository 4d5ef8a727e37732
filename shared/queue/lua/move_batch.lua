-- Change the status of a batch, by the owner of its lease or by a client.
-- ARGV: id, fencing token or '' for a client, new status, earlier statuses with spaces;
--       ttl in ms if the batch ends or ''; fields and values.
-- Returns 1, or 0 if another owner has the lease or the status is no earlier status.
local id, fencing_token, status, earlier, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local batch = BATCH .. id
local current = redis.call('HGET', batch, 'status')

if fencing_token ~= '' and not owns_batch(id, fencing_token) then
  return 0
elseif not current or not string.find(' ' .. earlier .. ' ', ' ' .. current .. ' ', 1, true) then
  return 0
end
redis.call('HSET', batch, 'status', status, status .. '_at', ms(NOW / 1000), unpack(ARGV, 6))
if ttl_ms ~= '' then
  redis.call('ZREM', ACTIVE_BATCHES, id)
  redis.call('DEL', BATCH_LINES .. id)
  redis.call('PEXPIRE', batch, ttl_ms)
end
return 1
