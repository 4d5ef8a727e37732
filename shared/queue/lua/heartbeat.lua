-- One worker's sign of life; keeps the model card it serves alive.
-- ARGV: worker, its WorkerInfo, hash of its model card
-- Returns the hash of the card that requests are checked against, or false where Redis lost it or
-- this worker's card: then the worker must publish its own again.
local worker, info, card_hash = ARGV[1], ARGV[2], ARGV[3]

redis.call('ZADD', WORKERS, NOW, worker)
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', NOW - WORKER_TTL_MS)
redis.call('SET', WORKER .. worker, info, 'PX', WORKER_TTL_MS)
redis.call('PEXPIRE', CURRENT_MODEL, MODEL_CARD_TTL_MS)
if redis.call('PEXPIRE', MODEL_CARD .. card_hash, MODEL_CARD_TTL_MS) == 0 then
  return false
end
return redis.call('GET', CURRENT_MODEL)
