-- Put before every script: all jobs in one sorted set, by status and then by their creation.
-- A status is a band of scores, LEASED apart; within it a job's place never changes, so that a page
-- of a listing can begin where the last one ended, whatever happened meanwhile.

local BANDS = {queued = 0, running = 1, succeeded = 2, failed = 3, cancelled = 4, expired = 5}

local function index_score(status, created_ms)
  return ms(BANDS[status] * LEASED + created_ms)
end

local function index_job(id, status, created_ms)
  redis.call('ZADD', JOBS, index_score(status, created_ms), id)
end

-- An ended job; the oldest of its status is listed no more when there are too many.
local function index_end(id, status, created_ms)
  index_job(id, status, created_ms)
  local low, high = index_score(status, 0), index_score(status, LEASED - 1)
  if redis.call('ZCOUNT', JOBS, low, high) > LISTED_MAX then
    redis.call('ZREM', JOBS, redis.call('ZRANGEBYSCORE', JOBS, low, high, 'LIMIT', 0, 1)[1])
  end
end
