-- Release jobs: they wait at their earlier place again, and the attempt does not count. A job that a client
-- cancelled meanwhile ends.
-- ARGV: worker, then id and fencing token of each job
-- Returns the number of jobs that were released.
local worker = ARGV[1]
local released = 0

for i = 2, #ARGV, 2 do
  local id, owner = ARGV[i], worker .. ':' .. ARGV[i + 1]
  local record = RECORD .. id
  local score, tokens, created_ms, attempts, trail, lane = unpack(redis.call('HMGET', record,
    'queue_score', 'cost_tokens', 'created_ms', 'attempts', 'trail', 'lane'))
  if score and redis.call('GET', ARQ_IN_PROGRESS .. id) == owner then
    add_to_lane(id, lane, score, tonumber(tokens or 0))
    index_job(id, 'queued', created_ms)
    redis.call('HSET', record, 'status', 'queued',
      'trail', extended_trail(trail, 'released', attempts or 0, worker))
    redis.call('HDEL', record, 'worker', 'started_ms')
    redis.call('DEL', ARQ_IN_PROGRESS .. id, ARQ_RETRY .. id)
    finish_cancelled(id)
    released = released + 1
  end
end
if released > 0 then
  wake_a_worker()
end
return released
