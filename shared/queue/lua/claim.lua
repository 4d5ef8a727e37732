-- Take the jobs that fit into a worker: expired leases first, then waiting ones, each in order.
-- It stops at the first that does not fit, so nothing overtakes a large job for ever. For jobs that
-- must run alone one worker at a time becomes empty; the others pass them over.
-- ARGV: worker, lease in ms, free rows, free tokens, jobs it runs, attempts from which a job runs
--       alone, most attempts
-- Returns {stalled, jobs, after an outage}; stalled: something is ready that this worker has no room
-- for. A job whose payload is gone or that is out of attempts is leased as well, for the worker to
-- end it. A fence is the time of its claim in ms, or more: no other claim of the job has as much.
local worker, lease_ms = ARGV[1], ARGV[2]
local free_rows, free_tokens, running = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local alone_from, max_attempts = tonumber(ARGV[6]), tonumber(ARGV[7])

-- Workers claim every second. After a longer gap Redis was away or frozen, or its clock jumped, and no
-- lease could be renewed: for GRACE_MS expired leases stay with their workers.
local OUTAGE_MS, GRACE_MS = 1500, 1500

local function notice_outage(line)
  if line.claimed_ms > 0 and NOW - line.claimed_ms > OUTAGE_MS then
    line.grace_ms = NOW + GRACE_MS
  end
  line.claimed_ms = NOW
  redis.call('HSET', LINE, 'claimed_ms', ms(NOW), 'grace_ms', ms(line.grace_ms))
  return NOW < line.grace_ms
end

local line, num_waiting = read_line(), waiting()
local after_outage = notice_outage(line)
local expired_below = after_outage and LEASED - 1 or score_for_lease(0) -- none, after an outage
local ready = num_waiting + redis.call('ZCOUNT', QUEUE, LEASED, expired_below)
local share = math.ceil(ready / math.max(1, line.live))

local function fits(rows, tokens, is_alone)
  return running == 0 or not is_alone and rows <= free_rows and tokens <= free_tokens
end

-- Whether this busy worker is the one that takes nothing more until it is empty. Each of its claims
-- renews that; once it claims no more another takes its turn.
local function becomes_empty()
  local chosen = redis.call('GET', EMPTYING)
  if chosen and chosen ~= worker then
    return false
  end
  redis.call('SET', EMPTYING, worker, 'PX', WORKER_TTL_MS)
  return true
end

local function take_room(rows, tokens, is_alone)
  free_rows = is_alone and 0 or free_rows - rows
  free_tokens, running = free_tokens - tokens, running + 1
end

local function lease(id, fence, attempts, created_ms)
  redis.call('ZADD', QUEUE, score_for_lease(lease_ms), id)
  redis.call('SET', OWNER .. id, worker .. ':' .. fence, 'PX', JOB_KEPT_MS)
  redis.call('HSET', RECORD .. id, 'status', 'running', 'worker', worker, 'fence', fence,
    'started_ms', ms(NOW), 'attempts', attempts)
  index_job(id, 'running', created_ms)
end

local claimed, num_taken, tokens_taken, is_sum_wrong = {}, 0, 0, false
local CLAIMED, PASSED, FULL = 1, 2, 3
local function claim_job(id, is_expired)
  local payload, rows, tokens, attempts, latest, created_ms, deadline_ms =
    unpack(redis.call('HMGET', RECORD .. id, 'payload', 'rows', 'tokens', 'attempts', 'fence',
      'created_ms', 'deadline_ms'))
  attempts, latest = tonumber(attempts or 0), tonumber(latest or 0)
  local fence = math.max(latest + 1, math.floor(NOW))
  rows, tokens, created_ms = tonumber(rows or 0), tonumber(tokens or 0), created_ms or ms(NOW)
  if is_expired then
    attempts = attempts + begun(id)
  end
  if payload and attempts < max_attempts then
    local is_alone = attempts >= alone_from
    if not fits(rows, tokens, is_alone) then
      return is_alone and not becomes_empty() and PASSED or FULL
    end
    take_room(rows, tokens, is_alone)
  end
  lease(id, fence, attempts, created_ms)
  if is_expired then
    redis.call('DEL', RETRY .. id) -- counted, once
  else
    num_taken, tokens_taken = num_taken + 1, tokens_taken + tokens
  end
  if not payload then -- the record may be new
    redis.call('HSET', RECORD .. id, 'created_ms', created_ms)
    redis.call('PEXPIRE', RECORD .. id, JOB_KEPT_MS)
    is_sum_wrong = is_sum_wrong or not is_expired
  end
  claimed[#claimed + 1] = {id, payload, rows, tokens, attempts, fence, latest, created_ms, ms(NOW),
    ms((deadline_ms or NOW) - NOW)}
  return CLAIMED
end

local num_passed = 0
-- Returns false once a job does not fit. What is claimed or ends leaves the range.
local function claim_between(low, high, is_expired)
  local first = 0
  while #claimed < share do
    local ids = redis.call('ZRANGEBYSCORE', QUEUE, low, high, 'LIMIT', first, share - #claimed)
    for _, id in ipairs(ids) do
      if is_expired and conclude_cancelled(id) then
        ready = ready - 1 -- its worker died before it could end it
      else
        local verdict = claim_job(id, is_expired)
        if verdict == FULL then
          return false
        elseif verdict == PASSED then
          first, num_passed = first + 1, num_passed + 1
        end
      end
    end
    if #ids == 0 then
      break
    end
  end
  return true
end

local room = claim_between(LEASED, expired_below, true)
  and claim_between('-inf', '(' .. LEASED, false)
if num_taken > 0 then
  local is_full = not room or free_rows < 1 or free_tokens < 1
  note_claim(line, num_taken, tokens_taken, num_waiting - num_taken, is_full)
end
if is_sum_wrong then
  recount_line(line)
end
if ready - num_passed > #claimed then -- an empty worker looks by itself, and soon
  wake_a_worker()
end
return {room and 0 or 1, claimed, after_outage and 1 or 0}
