-- Write the heartbeat of a worker, and keep the model card that it serves.
-- ARGV: worker, its WorkerInfo, hash of its model card
-- Returns the hash of the current model card, or false if Redis lost that or this worker's card: then the
-- worker must publish its card again.
local worker, info, card_hash = ARGV[1], ARGV[2], ARGV[3]

redis.call('ZADD', WORKERS, NOW, worker)
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', NOW - WORKER_TTL_MS)
redis.call('SET', WORKER .. worker, info, 'PX', WORKER_TTL_MS)
redis.call('PEXPIRE', CURRENT_MODEL, MODEL_CARD_TTL_MS)
redis.call('PEXPIRE', MODEL_CREATED .. card_hash, MODEL_CARD_TTL_MS)
if redis.call('PEXPIRE', MODEL_CARD .. card_hash, MODEL_CARD_TTL_MS) == 0 then
  return false
end
return redis.call('GET', CURRENT_MODEL)
