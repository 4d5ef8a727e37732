-- Take the jobs that fit into a worker: expired leases first, then waiting ones, each in order.
-- It stops at the first that does not fit, so nothing overtakes a large job for ever.
-- ARGV: worker, lease in ms, free rows, free tokens, jobs it runs, attempts from which a job runs
--       alone, most attempts
-- Returns {stalled, jobs}; stalled: something is ready that this worker has no room for.
local worker, lease_ms = ARGV[1], ARGV[2]
local free_rows, free_tokens, running = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local alone_from, max_attempts = tonumber(ARGV[6]), tonumber(ARGV[7])

local expired_below = score_for_lease(0)
local live = redis.call('ZCOUNT', WORKERS, NOW - WORKER_TTL_MS, '+inf')
local ready = waiting() + redis.call('ZCOUNT', QUEUE, LEASED, expired_below)
local share = math.ceil(ready / math.max(1, live))

local function fits(rows, tokens, attempts)
  if attempts >= max_attempts then
    return true -- it will be given up, not run
  elseif running == 0 then
    return true -- alone, or never
  end
  return attempts < alone_from and rows <= free_rows and tokens <= free_tokens
end

local function lease(id, payload, attempts)
  local record = RECORD .. id
  local fence = redis.call('HINCRBY', record, 'fence', 1)
  redis.call('ZADD', QUEUE, score_for_lease(lease_ms), id)
  redis.call('SET', OWNER .. id, worker .. ':' .. fence, 'PX', JOB_TTL_MS)
  redis.call('HSET', record, 'status', 'running', 'worker', worker, 'started_ms', ms(NOW))
  redis.call('PEXPIRE', record, JOB_TTL_MS)
  redis.call('PEXPIRE', JOB .. id, JOB_TTL_MS)
  local known = redis.call('HMGET', record, 'created_ms', 'reply_to', 'cancel')
  return {id, payload, fence, attempts, known[1], ms(NOW), known[2], known[3]}
end

local claimed = {}
-- Returns false once a job does not fit.
local function claim_between(low, high)
  local limit = share - #claimed
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE, low, high, 'LIMIT', 0, limit)) do
    local known = redis.call('HMGET', RECORD .. id, 'payload', 'rows', 'tokens')
    if not known[1] then
      redis.call('ZREM', QUEUE, id) -- older than JOB_TTL: its data is gone
      ready = ready - 1
    else
      local rows, tokens = tonumber(known[2]), tonumber(known[3])
      local attempts = tonumber(redis.call('GET', RETRY .. id) or '0')
      if not fits(rows, tokens, attempts) then
        return false
      end
      claimed[#claimed + 1] = lease(id, known[1], attempts)
      if attempts < max_attempts then
        free_rows, free_tokens, running = free_rows - rows, free_tokens - tokens, running + 1
        if attempts >= alone_from then
          free_rows = 0
        end
      end
    end
  end
  return true
end

local room = claim_between(LEASED, expired_below) and claim_between('-inf', '(' .. LEASED)
if ready > #claimed then
  wake_a_worker()
end
return {room and 0 or 1, claimed}
