-- Lease the jobs that fit into a worker: expired leases first, then waiting jobs, then jobs of batches, each
-- in order. The first
-- job that does not fit ends the claim, so that no large job is overtaken for ever. For a job that must run
-- alone, one worker at a time stops claiming until it is idle; other workers skip the job.
-- ARGV: worker, lease in ms, free rows, free tokens, number of jobs it runs, attempts from which a job
--       runs alone, most attempts
-- Returns {lacks capacity, jobs, is after an outage, rows, tokens}. The first is 1 if a ready job does not
-- fit into this worker. The last two are what the first such job needs, if it is of no batch. Each job: {id, payload or false, attempts, fencing token, previous fencing token or 0, created_ms,
-- started_ms, ms until its deadline}. A job without a payload or out of attempts is leased as well, for the
-- worker to end it.
local worker, lease_ms = ARGV[1], ARGV[2]
local free_rows, free_tokens, num_running = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local run_alone_from, max_attempts = tonumber(ARGV[6]), tonumber(ARGV[7])

-- Workers that may claim do so at least once a second. After a gap of OUTAGE_MS without a claim of any worker,
-- Redis was away or frozen, or its clock jumped, and no lease could be renewed. Then, for GRACE_MS, the leases
-- that expired in the gap stay with their workers. Leases that expired before this gap started are claimed.
local OUTAGE_MS, GRACE_MS = 1500, 1500

-- Returns whether the time of grace after an outage lasts.
local function detect_outage(backlog)
  if backlog.last_claim_ms > 0 and NOW - backlog.last_claim_ms > OUTAGE_MS then
    backlog.outage_since_ms = backlog.last_claim_ms
    backlog.grace_until_ms = NOW + GRACE_MS
  end
  backlog.last_claim_ms = NOW
  write_backlog(backlog, {'last_claim_ms', 'outage_since_ms', 'grace_until_ms'})
  return NOW < backlog.grace_until_ms
end

local backlog, waiting_before = read_backlog(), num_waiting()
local is_after_outage = detect_outage(backlog)
local batch_jobs = redis.call('ZCARD', BATCH_LANE)
local expired_below = lease_score(0)
if is_after_outage then
  expired_below = LEASE_SCORE_BASE + math.floor(backlog.outage_since_ms)
end
local ready = waiting_before + redis.call('ZCOUNT', QUEUE, LEASE_SCORE_BASE, expired_below)
local fair_share = math.ceil(ready / math.max(1, backlog.num_workers))

local function fits(rows, tokens, runs_alone)
  return num_running == 0 or not runs_alone and rows <= free_rows and tokens <= free_tokens
end

-- Gives this busy worker the turn to claim nothing until it is idle, unless another worker has the turn.
-- Each claim of this worker extends its turn. If its claims stop, the turn passes to another worker. Returns
-- whether this worker has the turn.
local function become_alone_worker()
  local current = redis.call('GET', ALONE_WORKER)
  if current and current ~= worker then
    return false
  end
  redis.call('SET', ALONE_WORKER, worker, 'PX', WORKER_TTL_MS)
  return true
end

local function use_capacity(rows, tokens, runs_alone)
  free_rows = runs_alone and 0 or free_rows - rows
  free_tokens, num_running = free_tokens - tokens, num_running + 1
end

local function lease(id, fencing_token, attempts, created_ms, trail, lane)
  redis.call('ZADD', QUEUE, lease_score(lease_ms), id)
  if lane then
    redis.call('ZREM', BATCH_LANE, id)
  end
  redis.call('SET', ARQ_IN_PROGRESS .. id, worker .. ':' .. fencing_token, 'PX', UNFINISHED_JOB_TTL_MS)
  redis.call('HSET', RECORD .. id, 'status', 'running', 'worker', worker,
    'fencing_token', fencing_token, 'started_ms', ms(NOW), 'attempts', attempts,
    'trail', extended_trail(trail, 'claimed', attempts, worker))
  index_job(id, 'running', created_ms)
end

local claimed, num_taken, tokens_taken, has_lost_records = {}, 0, 0, false
local blocked_rows, blocked_tokens = 0, 0
local CLAIMED, SKIPPED, FULL = 1, 2, 3
local function claim_job(id, is_expired, from_batches)
  local payload, rows, tokens, attempts, previous_fencing_token, created_ms, deadline_ms, trail,
    previous_worker, lane = unpack(redis.call('HMGET', RECORD .. id, 'payload', 'cost_rows',
      'cost_tokens', 'attempts', 'fencing_token', 'created_ms', 'deadline_ms', 'trail', 'worker', 'lane'))
  attempts, previous_fencing_token = tonumber(attempts or 0), tonumber(previous_fencing_token or 0)
  local fencing_token = math.max(previous_fencing_token + 1, math.floor(NOW))
  rows, tokens, created_ms = tonumber(rows or 0), tonumber(tokens or 0), created_ms or ms(NOW)
  if is_expired then
    attempts = attempts + has_started(id)
    trail = extended_trail(trail, 'lease_lost', attempts, previous_worker or '')
  end
  if payload and attempts < max_attempts then
    local runs_alone = attempts >= run_alone_from
    if not fits(rows, tokens, runs_alone) then
      if not lane and not runs_alone then
        blocked_rows, blocked_tokens = rows, tokens
      end
      return runs_alone and not become_alone_worker() and SKIPPED or FULL
    end
    use_capacity(rows, tokens, runs_alone)
  end
  lease(id, fencing_token, attempts, created_ms, trail, lane or from_batches)
  if is_expired then
    redis.call('DEL', ARQ_RETRY .. id) -- the attempt is counted once
  elseif not from_batches then
    num_taken, tokens_taken = num_taken + 1, tokens_taken + tokens
  end
  if not payload then -- the record may be new
    redis.call('HSET', RECORD .. id, 'created_ms', created_ms)
    write_model(id)
    redis.call('PEXPIRE', RECORD .. id, UNFINISHED_JOB_TTL_MS)
    has_lost_records = has_lost_records or not is_expired and not from_batches
  end
  claimed[#claimed + 1] = {id, payload, attempts, fencing_token, previous_fencing_token, created_ms,
    ms(NOW), ms((deadline_ms or NOW) - NOW)}
  return CLAIMED
end

local num_skipped = 0
-- Claims jobs of the lane `set` with scores in this range, up to `share` jobs in all; claimed and finished jobs leave it. Returns false once a job does
-- not fit.
local function claim_between(low, high, is_expired, set, share)
  local offset = 0
  while #claimed < share do
    local ids = redis.call('ZRANGEBYSCORE', set, low, high, 'LIMIT', offset, share - #claimed)
    for _, id in ipairs(ids) do
      if is_expired and finish_cancelled(id) then
        ready = ready - 1
      else
        local verdict = claim_job(id, is_expired, set == BATCH_LANE)
        if verdict == FULL then
          return false
        elseif verdict == SKIPPED then
          offset, num_skipped = offset + 1, num_skipped + 1
        end
      end
    end
    if #ids == 0 then
      break
    end
  end
  return true
end

local all_fit = claim_between(LEASE_SCORE_BASE, expired_below, true, QUEUE, fair_share)
  and claim_between('-inf', '(' .. LEASE_SCORE_BASE, false, QUEUE, fair_share)
if num_taken > 0 then
  local is_full = not all_fit or free_rows < 1 or free_tokens < 1
  record_claim(backlog, num_taken, tokens_taken, waiting_before - num_taken, is_full)
end
if has_lost_records then
  recount_tokens(backlog)
end
local batch_share = #claimed + math.ceil(batch_jobs / math.max(1, backlog.num_workers))
local num_others = #claimed
if all_fit and num_waiting() == 0 and free_rows > 0 then
  all_fit = claim_between('-inf', '+inf', false, BATCH_LANE, batch_share)
end
local num_of_batches = #claimed - num_others
-- Jobs of batches that are left wake the next worker only if this worker took some, so a full worker that
-- listens for other jobs is not woken again and again.
if num_of_batches > 0 and batch_jobs > num_of_batches or ready - num_skipped > num_others then -- skipped jobs wait for an idle worker
  wake_a_worker()
end
return {all_fit and 0 or 1, claimed, is_after_outage and 1 or 0, blocked_rows, blocked_tokens}
