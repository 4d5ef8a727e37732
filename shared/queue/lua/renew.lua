-- Extend all leases of one worker.
-- ARGV: worker, lease in ms, then id and fencing token of each job
-- Returns {lost, cancelled}: ids of jobs that the worker no longer owns, and of jobs that a client cancelled.
local worker, lease_ms = ARGV[1], ARGV[2]
local lost, cancelled = {}, {}

-- Redis lost the claim of this job with its last writes: write it again.
local function restore_claim(id, fencing_token)
  local record = RECORD .. id
  local status, tokens, created_ms, attempts, trail, lane = unpack(redis.call('HMGET', record,
    'status', 'cost_tokens', 'created_ms', 'attempts', 'trail', 'lane'))
  if status == 'queued' then
    remove_from_lane(id, lane, tonumber(tokens or 0))
  end
  created_ms = created_ms or ms(NOW)
  redis.call('HSET', record, 'status', 'running', 'worker', worker,
    'fencing_token', fencing_token, 'created_ms', created_ms,
    'trail', extended_trail(trail, 'restored', attempts or 0, worker))
  write_model(id)
  redis.call('PEXPIRE', record, UNFINISHED_JOB_TTL_MS)
  index_job(id, 'running', created_ms)
end

for i = 3, #ARGV, 2 do
  local id, fencing_token = ARGV[i], ARGV[i + 1]
  if not owns_lease(id, worker, fencing_token) then
    lost[#lost + 1] = id
  else
    redis.call('ZADD', QUEUE, lease_score(lease_ms), id)
    local owner = worker .. ':' .. fencing_token
    if redis.call('SET', ARQ_IN_PROGRESS .. id, owner, 'NX', 'PX', UNFINISHED_JOB_TTL_MS) then
      restore_claim(id, fencing_token)
    end
    if redis.call('HEXISTS', RECORD .. id, 'cancel_result') == 1 then
      cancelled[#cancelled + 1] = id
    end
  end
end
return {lost, cancelled}
