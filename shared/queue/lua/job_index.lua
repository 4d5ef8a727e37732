-- Part of every script: the sorted set JOB_INDEX of all jobs, ordered by status and then by creation.
-- Each status is a band of scores, LEASE_SCORE_BASE wide. Within a band the score of a job never changes, so that a
-- page of a listing can begin where the last one ended.

local BANDS = {queued = 0, running = 1, succeeded = 2, failed = 3, cancelled = 4, expired = 5}

local function index_score(status, created_ms)
  return ms(BANDS[status] * LEASE_SCORE_BASE + created_ms)
end

local function index_job(id, status, created_ms)
  redis.call('ZADD', JOB_INDEX, index_score(status, created_ms), id)
end

-- At most LISTED_MAX finished jobs of each status stay in the index; the oldest jobs leave it.
local function index_finished_job(id, status, created_ms)
  index_job(id, status, created_ms)
  local low, high = index_score(status, 0), index_score(status, LEASE_SCORE_BASE - 1)
  if redis.call('ZCOUNT', JOB_INDEX, low, high) > LISTED_MAX then
    local oldest = redis.call('ZRANGEBYSCORE', JOB_INDEX, low, high, 'LIMIT', 0, 1)[1]
    redis.call('ZREM', JOB_INDEX, oldest)
  end
end
