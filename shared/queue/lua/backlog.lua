-- Part of every script: the backlog of waiting jobs. Its claim rate gives the expected start of a job
-- and the Retry-After of a refused client.
-- Fields of the hash BACKLOG (times in Unix ms):
--   tokens: KV cache tokens of the waiting jobs; every script that adds or removes a job updates it.
--   full_since_ms: time of the last claim, if it filled its worker and left jobs waiting, else 0.
--   rate_ms, rate_claims, rate_jobs, rate_tokens: how long jobs waited before full claims, and what
--     these claims took. These sums decay.
--   rate_measured_ms: when these sums were last updated.
--   retry_slot_ms: when the last refused client should retry.
--   last_claim_ms: time of the last claim of any worker.
--   outage_since_ms: time of the last claim before the latest outage, see claim.lua.
--   grace_until_ms: until then, leases that expired after outage_since_ms stay with their workers.

local DECAY_MS = 10000 -- time constant of the rate sums
local MAX_DECAY = 0.5 -- at one claim, as a power of e
local MAX_PAUSE_MS = 60000 -- a longer time between two claims is an outage, not work
local RATE_KEPT_MS = 300000 -- for how long the sums count without a backlog

local MAX_RETRY_AFTER_MS = 600000
-- Retry-After exceeds the estimate: a retry that comes too early is refused again.
local RETRY_FACTOR, RETRY_MARGIN_MS = 1.2, 1000

local BACKLOG_FIELDS = {'tokens', 'full_since_ms', 'rate_ms', 'rate_claims', 'rate_jobs',
  'rate_tokens', 'rate_measured_ms', 'retry_slot_ms', 'last_claim_ms', 'outage_since_ms',
  'grace_until_ms'}

local function num_waiting()
  return redis.call('ZCOUNT', QUEUE, '-inf', '(' .. LEASE_SCORE_BASE)
end

-- Returns BACKLOG as a table of numbers, with the number of live workers as `num_workers`.
local function read_backlog()
  local backlog = {num_workers = redis.call('ZCOUNT', WORKERS, NOW - WORKER_TTL_MS, '+inf')}
  for i, value in ipairs(redis.call('HMGET', BACKLOG, unpack(BACKLOG_FIELDS))) do
    backlog[BACKLOG_FIELDS[i]] = tonumber(value or 0)
  end
  return backlog
end

local function write_backlog(backlog, fields)
  local update = {}
  for _, field in ipairs(fields) do
    update[#update + 1] = field
    update[#update + 1] = string.format(field == 'tokens' and '%.0f' or '%.6f', backlog[field])
  end
  redis.call('HSET', BACKLOG, unpack(update))
end

-- -- jobs that wait ---------------------------------------------------------------------------

-- The first job of an empty backlog resets the sum of tokens, and the spreading of retries.
local function add_to_backlog(id, score, tokens)
  if num_waiting() == 0 then
    redis.call('HSET', BACKLOG, 'tokens', tokens, 'full_since_ms', 0, 'retry_slot_ms', 0)
  else
    redis.call('HINCRBY', BACKLOG, 'tokens', tokens)
  end
  redis.call('ZADD', QUEUE, score, id)
end

-- A job of a batch waits in a lane of its own, which no limit and no estimate of the backlog counts.
local function subtract_from_backlog(tokens)
  redis.call('HINCRBY', BACKLOG, 'tokens', 0 - tokens) -- Redis rejects -0
end

-- For jobs that left without their cost, because their records have expired.
local function recount_tokens(backlog)
  backlog.tokens = 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE, '-inf', '(' .. LEASE_SCORE_BASE)) do
    local tokens = redis.call('HGET', RECORD .. id, 'cost_tokens')
    backlog.tokens = backlog.tokens + tonumber(tokens or 0)
  end
  redis.call('HSET', BACKLOG, 'tokens', backlog.tokens)
end

-- The first write of a script that may later accept a job. Redis at its memory limit refuses this
-- write; after a first write that only removes data, it would let all others pass.
local function require_free_memory()
  redis.call('HINCRBY', BACKLOG, 'tokens', 0)
end

-- Removes waiting jobs that no worker claimed before their records expired.
local function drop_lost_jobs(backlog)
  local lost = redis.call('ZRANGEBYSCORE', QUEUE, '-inf', NOW - UNFINISHED_JOB_TTL_MS, 'LIMIT', 0, 1000)
  if #lost > 0 then
    require_free_memory()
    redis.call('ZREM', QUEUE, unpack(lost))
    redis.call('ZREM', JOB_INDEX, unpack(lost))
    recount_tokens(backlog)
  end
end

-- -- claim rate -------------------------------------------------------------------------------

local function add_to_rate_sums(backlog, jobs, tokens)
  local waited_ms = math.min(math.max(NOW - backlog.full_since_ms, 0.01), MAX_PAUSE_MS)
  local decay = math.exp(-math.min(waited_ms / DECAY_MS, MAX_DECAY))
  backlog.rate_ms = backlog.rate_ms * decay + waited_ms
  backlog.rate_claims = backlog.rate_claims * decay + 1
  backlog.rate_jobs = backlog.rate_jobs * decay + jobs
  backlog.rate_tokens = backlog.rate_tokens * decay + tokens
  backlog.rate_measured_ms = NOW
end

-- A claim took `jobs` from the backlog and left `left`. Only the time between two claims that filled
-- their workers measures what the workers can do.
local function record_claim(backlog, jobs, tokens, left, is_full)
  if backlog.full_since_ms > 0 and is_full then
    add_to_rate_sums(backlog, jobs, tokens)
  elseif NOW - backlog.rate_measured_ms > RATE_KEPT_MS then -- the workers may be others by now
    backlog.rate_ms, backlog.rate_claims = 0, 0
    backlog.rate_jobs, backlog.rate_tokens = 0, 0
  end
  backlog.tokens = backlog.tokens - tokens
  backlog.full_since_ms = is_full and left > 0 and NOW or 0
  write_backlog(backlog, BACKLOG_FIELDS)
end

-- Returns the ms that one job, one token and one claim take to leave the backlog. Nil if unknown: no
-- worker is live, no job waits for capacity, or no claim has taken a job meanwhile.
local function claim_times(backlog)
  if backlog.num_workers == 0 or backlog.full_since_ms == 0 or backlog.rate_claims == 0 then
    return nil
  end
  -- A pause twice as long as usual lowers the rate, and more so the longer it lasts.
  local usual_ms = backlog.rate_ms / backlog.rate_claims
  local pause_ms = NOW - backlog.full_since_ms
  local rate_ms = backlog.rate_ms * math.max(1, pause_ms / (2 * usual_ms))
  return {
    job_ms = rate_ms / backlog.rate_jobs,
    token_ms = rate_ms / math.max(backlog.rate_tokens, 1),
    claim_ms = rate_ms / backlog.rate_claims,
  }
end

-- Returns {position from 1, ms until its start or false, number of live workers} of a job behind `ahead`
-- others.
local function estimate_behind(ahead, backlog)
  local times = claim_times(backlog)
  return {ahead + 1, times and ms(ahead * times.job_ms) or false, backlog.num_workers}
end

-- Returns the same of a waiting job.
local function estimate(id, backlog)
  local ahead = redis.call('ZRANK', QUEUE, id)
  return estimate_behind(ahead or num_waiting() + (redis.call('ZRANK', BATCH_LANE, id) or 0), backlog)
end

-- Returns the ms that a job of these tokens would run, or false if unknown. By Little's law the mean run
-- takes as long as the claims of all jobs that run now; a job's share of it grows with its tokens.
local function estimate_run(tokens, backlog)
  local times = claim_times(backlog)
  if not times or tokens == 0 then
    return false
  end
  local running = redis.call('ZCOUNT', QUEUE, LEASE_SCORE_BASE, '+inf')
  return ms(math.max(running, 1) * tokens * times.token_ms)
end

-- -- refusals ---------------------------------------------------------------------------------

-- Returns the ms until a refused client should retry: at least `need_ms`, and `slot_ms` after the retry
-- before. Retries so come at the claim rate (GCRA). `backlog` gets the slot, and `enqueue` writes it.
local function take_retry_slot(backlog, need_ms, slot_ms)
  local due_ms = math.max(NOW + need_ms, backlog.retry_slot_ms + slot_ms)
  local retry_after_ms = due_ms - NOW + RETRY_MARGIN_MS
  if retry_after_ms > MAX_RETRY_AFTER_MS then
    return MAX_RETRY_AFTER_MS
  end
  backlog.retry_slot_ms = due_ms
  return retry_after_ms
end

-- Returns the ms until enough of the backlog has left for a job of `size`: an `excess` of jobs
-- (`unit` 'job_ms') or of tokens ('token_ms').
local function retry_after(backlog, unit, excess, size)
  local times = claim_times(backlog)
  if not times then
    return UNKNOWN_RETRY_AFTER_MS
  end
  -- A claim takes several jobs at once, and then none until the next claim.
  local need_ms = excess * times[unit] + times.claim_ms - times.job_ms
  return take_retry_slot(backlog, RETRY_FACTOR * need_ms, RETRY_FACTOR * size * times[unit])
end

-- Returns the reply of `refuse`.
local function refusal(reason, backlog, jobs, retry_after_ms, wait_ms)
  return {'refused', reason, ms(math.ceil(retry_after_ms)), jobs, backlog.tokens, ms(wait_ms or 0)}
end

-- Refuses a job for which the backlog is too long; `score` is its place, `start_within_ms` its deadline.
-- Returns nil or {'refused', 'too many jobs', 'too many tokens' or 'deadline', Retry-After in ms,
-- number of waiting jobs, their tokens, ms until the job would start or 0}.
local function refuse(backlog, score, tokens, start_within_ms, max_jobs, max_tokens)
  local jobs = num_waiting()
  if jobs >= max_jobs then
    drop_lost_jobs(backlog)
    jobs = num_waiting()
  end
  local excess_tokens, times = backlog.tokens + tokens - max_tokens, claim_times(backlog)
  if jobs >= max_jobs then
    local retry_after_ms = retry_after(backlog, 'job_ms', jobs + 1 - max_jobs, 1)
    return refusal('too many jobs', backlog, jobs, retry_after_ms)
  elseif jobs > 0 and excess_tokens > 0 then -- a job of any size may wait alone
    local retry_after_ms = retry_after(backlog, 'token_ms', excess_tokens, tokens)
    return refusal('too many tokens', backlog, jobs, retry_after_ms)
  elseif times and start_within_ms < JOB_TTL_MS then
    local wait_ms = redis.call('ZCOUNT', QUEUE, '-inf', '(' .. score) * times.job_ms
    if wait_ms > start_within_ms then -- no retry slot would make the backlog shorter
      local retry_after_ms = RETRY_FACTOR * (wait_ms - start_within_ms) + RETRY_MARGIN_MS
      retry_after_ms = math.min(retry_after_ms, MAX_RETRY_AFTER_MS)
      return refusal('deadline', backlog, jobs, retry_after_ms, wait_ms)
    end
  end
end
