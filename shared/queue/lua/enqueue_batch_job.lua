-- Accept the job of a batch into BATCH_LANE, which neither counts for the limits of other jobs nor delays them.
-- ARGV: id, payload, arq's job, cost in rows, cost in tokens; deadline in ms from now, ttl of the result in ms,
--       subscriber, owner or ''
-- Returns 'accepted', 'known' if the job was accepted before, or 'full'.
local id, payload, arq_job, rows, tokens = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local deadline_ms, ttl_ms, subscriber, owner = ARGV[6], ARGV[7], ARGV[8], ARGV[9]

if redis.call('EXISTS', RECORD .. id) == 1 then
  return 'known'
elseif redis.call('ZCARD', BATCH_LANE) >= BATCH_LANE_MAX then
  return 'full'
end
local score = string.format('%.3f', NOW)
redis.call('HSET', RECORD .. id,
  'payload', payload, 'status', 'queued', 'created_ms', ms(NOW),
  'deadline_ms', ms(NOW + deadline_ms), 'ttl_ms', ttl_ms, 'cost_rows', rows, 'cost_tokens', tokens,
  'queue_score', score, 'lane', 'batch', 'subscribers', subscriber)
write_model(id)
write_owner(id, owner)
redis.call('PEXPIRE', RECORD .. id, UNFINISHED_JOB_TTL_MS)
redis.call('SET', ARQ_JOB .. id, arq_job, 'PX', UNFINISHED_JOB_TTL_MS)
redis.call('HINCRBY', TOTALS, 'queued', 1)
redis.call('ZADD', BATCH_LANE, score, id)
index_job(id, 'queued', ms(NOW))
wake_a_worker()
return 'accepted'
