-- Put before every script: what waits, and how fast it drains.
-- Hash LINE:
--   tokens       KV cache that the waiting jobs need, exact: whoever adds or takes one counts it
--   stands_ms    when the last claim left jobs behind for lack of room; 0: it took them all
--   busy_ms, claims, jobs, job_tokens   how long jobs stood, what claims took meanwhile; fading
--   measured_ms  when that was last brought up to date
--   promised_ms  when the latest refused client was asked to retry
--   claimed_ms   when the latest claim came, and until when expired leases stay with their workers:
--   grace_ms     see claim.lua

local FADE_MS = 10000
local MOST_FADING = 0.5 -- of one claim, as a power of e
local LONGEST_PAUSE_MS = 60000 -- a longer one was no work, but an outage
local MEASURE_KEPT_MS = 300000 -- while nothing stands

local MAX_RETRY_AFTER_MS = 600000
-- Retry-After exceeds the estimate: a retry that comes too early is refused again.
local MARGIN, SPARE_MS = 1.2, 1000

local FIELDS = {'tokens', 'stands_ms', 'busy_ms', 'claims', 'jobs', 'job_tokens', 'measured_ms',
  'promised_ms', 'claimed_ms', 'grace_ms'}

local function waiting()
  return redis.call('ZCOUNT', QUEUE, '-inf', '(' .. LEASED)
end

-- LINE as a table of numbers, with the number of `live` workers.
local function read_line()
  local line = {live = redis.call('ZCOUNT', WORKERS, NOW - WORKER_TTL_MS, '+inf')}
  for i, value in ipairs(redis.call('HMGET', LINE, unpack(FIELDS))) do
    line[FIELDS[i]] = tonumber(value or 0)
  end
  return line
end

-- Adds a job to the line. An empty line has no sum, whatever went wrong, and no retries are due.
local function join_line(id, score, tokens)
  if waiting() == 0 then
    redis.call('HSET', LINE, 'tokens', tokens, 'stands_ms', 0, 'promised_ms', 0)
  else
    redis.call('HINCRBY', LINE, 'tokens', tokens)
  end
  redis.call('ZADD', QUEUE, score, id)
end

local function leave_line(tokens)
  redis.call('HINCRBY', LINE, 'tokens', 0 - tokens) -- Redis knows no -0
end

-- After jobs left whose records are gone, and with them what they cost.
local function recount_line(line)
  line.tokens = 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE, '-inf', '(' .. LEASED)) do
    line.tokens = line.tokens + tonumber(redis.call('HGET', RECORD .. id, 'tokens') or 0)
  end
  redis.call('HSET', LINE, 'tokens', line.tokens)
end

-- The time for which jobs have stood counts, and what was taken at its end. What is older fades
-- within FADE_MS, or within some claims where they are further apart.
local function measure(line, jobs, tokens)
  local busy_ms = math.min(math.max(NOW - line.stands_ms, 0.01), LONGEST_PAUSE_MS)
  local fade = math.exp(-math.min(busy_ms / FADE_MS, MOST_FADING))
  line.busy_ms, line.claims = line.busy_ms * fade + busy_ms, line.claims * fade + 1
  line.jobs, line.job_tokens = line.jobs * fade + jobs, line.job_tokens * fade + tokens
  line.measured_ms = NOW
end

-- A claim took `jobs` that waited and left others. Only between two claims that filled their
-- worker is what was taken a measure of what the workers can do.
local function note_claim(line, jobs, tokens, left, is_full)
  if line.stands_ms > 0 and is_full then
    measure(line, jobs, tokens)
  elseif NOW - line.measured_ms > MEASURE_KEPT_MS then -- by other workers, perhaps
    line.busy_ms, line.claims, line.jobs, line.job_tokens = 0, 0, 0, 0
  end
  line.tokens, line.stands_ms = line.tokens - tokens, is_full and left > 0 and NOW or 0
  local update = {}
  for _, field in ipairs(FIELDS) do
    update[#update + 1] = field
    update[#update + 1] = string.format(field == 'tokens' and '%.0f' or '%.6f', line[field])
  end
  redis.call('HSET', LINE, unpack(update))
end

-- How long a job takes to leave, a token, and all that one claim takes, in ms; nil while nobody
-- knows: no worker is live, no job stands, or none was taken yet while others stood.
local function drain_times(line)
  if line.live == 0 or line.stands_ms == 0 or line.claims == 0 then
    return nil
  end
  -- A pause twice as long as usual says that it got slower, and the more so the longer it lasts.
  local usual_ms, pause_ms = line.busy_ms / line.claims, NOW - line.stands_ms
  local busy_ms = line.busy_ms * math.max(1, pause_ms / (2 * usual_ms))
  return {
    job_ms = busy_ms / line.jobs,
    token_ms = busy_ms / math.max(line.job_tokens, 1),
    claim_ms = busy_ms / line.claims,
  }
end

-- What a waiting job may expect: its position from 1, ms until its start or false, live workers.
local function outlook(id, line)
  local ahead, drain = redis.call('ZRANK', QUEUE, id) or 0, drain_times(line)
  return {ahead + 1, drain and ms(ahead * drain.job_ms) or false, line.live}
end

-- To be the first write of a script that may go on to accept a job: where memory is full Redis
-- refuses it, but lets pass all that follow a write that only removes.
local function need_memory()
  redis.call('HINCRBY', LINE, 'tokens', 0)
end

-- Jobs that no worker came for have lost their records by now: they take up no room.
local function forget_lost_jobs(line)
  local lost = redis.call('ZRANGEBYSCORE', QUEUE, '-inf', NOW - JOB_KEPT_MS, 'LIMIT', 0, 1000)
  if #lost > 0 then
    need_memory()
    redis.call('ZREM', QUEUE, unpack(lost))
    redis.call('ZREM', JOBS, unpack(lost))
    recount_line(line)
  end
end

-- The next retry of a refused client: at least `need_ms` from now, and `slot_ms` after the retry before.
-- Retries so come at the rate at which the line drains (GCRA).
local function schedule_retry(line, need_ms, slot_ms)
  local due_ms = math.max(NOW + need_ms, line.promised_ms + slot_ms)
  local retry_after_ms = due_ms - NOW + SPARE_MS
  if retry_after_ms > MAX_RETRY_AFTER_MS then
    return MAX_RETRY_AFTER_MS
  end
  redis.call('HSET', LINE, 'promised_ms', string.format('%.3f', due_ms))
  return retry_after_ms
end

-- Retry-After of a client for which `excess` jobs or tokens must leave first; its job is `size` of them.
-- unit: 'job_ms' or 'token_ms', the time that one of them takes
local function retry_after(line, unit, excess, size)
  local drain = drain_times(line)
  if not drain then
    return UNKNOWN_RETRY_AFTER_MS
  end
  -- A claim takes several jobs at once, and then none until the next claim.
  local need_ms = excess * drain[unit] + drain.claim_ms - drain.job_ms
  return schedule_retry(line, MARGIN * need_ms, MARGIN * size * drain[unit])
end

local function refusal(reason, line, num_waiting, retry_after_ms, wait_ms)
  return {'refused', reason, ms(math.ceil(retry_after_ms)), num_waiting, line.tokens, ms(wait_ms or 0)}
end

-- Whether the line is too long for a job that must start within `time_ms`. Returns nil or the reply
-- {'refused', reason, Retry-After in ms, waiting jobs, their tokens, expected wait in ms}.
local function refuse(line, score, tokens, time_ms, max_jobs, max_tokens)
  local num_waiting = waiting()
  if num_waiting >= max_jobs then
    forget_lost_jobs(line)
    num_waiting = waiting()
  end
  local excess_tokens, drain = line.tokens + tokens - max_tokens, drain_times(line)
  if num_waiting >= max_jobs then
    local retry_after_ms = retry_after(line, 'job_ms', num_waiting + 1 - max_jobs, 1)
    return refusal('too many jobs', line, num_waiting, retry_after_ms)
  elseif num_waiting > 0 and excess_tokens > 0 then -- alone, a job of any size may wait
    local retry_after_ms = retry_after(line, 'token_ms', excess_tokens, tokens)
    return refusal('too many tokens', line, num_waiting, retry_after_ms)
  elseif drain and time_ms < JOB_TTL_MS then
    local wait_ms = redis.call('ZCOUNT', QUEUE, '-inf', '(' .. score) * drain.job_ms
    if wait_ms > time_ms then -- a retry slot would not make the line shorter
      local retry_after_ms = math.min(MARGIN * (wait_ms - time_ms) + SPARE_MS, MAX_RETRY_AFTER_MS)
      return refusal('deadline', line, num_waiting, retry_after_ms, wait_ms)
    end
  end
end
