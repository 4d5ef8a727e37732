-- Put before every script: what waits, and how fast it drains.
-- Hash LINE:
--   tokens       KV cache that the waiting jobs need, exact: whoever adds or takes one counts it
--   stands_ms    when the last claim left jobs behind for lack of room; 0: it took them all
--   busy_ms, claims, jobs, job_tokens   how long jobs stood, what claims took meanwhile; fading
--   measured_ms  when that was last brought up to date
--   promised_ms  when the latest place of a refused caller is due, see places.lua

local FADE_MS = 10000
local MOST_FADING = 0.5 -- of one claim, as a power of e
local LONGEST_PAUSE_MS = 60000 -- a longer one was no work, but an outage
local MEASURE_KEPT_MS = 300000 -- while nothing stands

local FIELDS = {'tokens', 'stands_ms', 'busy_ms', 'claims', 'jobs', 'job_tokens', 'measured_ms',
  'promised_ms'}

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

-- A job joins the line, where `ahead` jobs wait. An empty line has no sum, whatever went wrong, and
-- places are given out from now on.
local function join_line(id, score, tokens, ahead)
  if ahead == 0 then
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
