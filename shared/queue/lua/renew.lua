-- Extend all leases of one worker.
-- ARGV: worker, lease in ms, then id and fence of each job
-- Returns {lost, cancelled}: ids another worker has or that ended, ids that a caller cancelled.
local worker, lease_ms = ARGV[1], ARGV[2]
local lost, cancelled = {}, {}

for i = 3, #ARGV, 2 do
  local id, fence = ARGV[i], ARGV[i + 1]
  local record, owner = RECORD .. id, worker .. ':' .. fence
  if not holds(id, worker, fence) then
    lost[#lost + 1] = id
  else
    redis.call('ZADD', QUEUE, score_for_lease(lease_ms), id)
    if redis.call('SET', OWNER .. id, owner, 'NX', 'PX', JOB_KEPT_MS) then -- Redis had lost it
      local status, tokens, created_ms =
        unpack(redis.call('HMGET', record, 'status', 'tokens', 'created_ms'))
      if status == 'queued' then
        leave_line(tonumber(tokens or 0))
      end
      created_ms = created_ms or ms(NOW)
      redis.call('HSET', record, 'status', 'running', 'worker', worker, 'fence', fence,
        'created_ms', created_ms)
      index_job(id, 'running', created_ms)
      redis.call('PEXPIRE', record, JOB_KEPT_MS)
    end
    if redis.call('HEXISTS', record, 'cancel') == 1 then
      cancelled[#cancelled + 1] = id
    end
  end
end
return {lost, cancelled}
