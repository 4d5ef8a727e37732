-- Part of every script: the sorted set JOB_INDEX of all jobs, ordered by status and then by creation, and one of the
-- same form for each owner.
-- Each status is a band of scores, LEASE_SCORE_BASE wide. Within a band the score of a job never changes, so that a
-- page of a listing can begin where the last one ended.

local BANDS = {queued = 0, running = 1, succeeded = 2, failed = 3, cancelled = 4, expired = 5}

local function index_score(status, created_ms)
  return ms(BANDS[status] * LEASE_SCORE_BASE + created_ms)
end

-- Returns the index of an owner; that of all jobs for ''.
local function index_of(owner)
  return owner == '' and JOB_INDEX or OWNER_JOBS .. owner
end

-- Returns the owner of the job, or false.
local function index_job(id, status, created_ms)
  local score, owner = index_score(status, created_ms), redis.call('HGET', RECORD .. id, 'owner')
  redis.call('ZADD', JOB_INDEX, score, id)
  if owner then
    redis.call('ZADD', index_of(owner), score, id)
    redis.call('PEXPIRE', index_of(owner), OWNER_INDEX_TTL_MS)
  end
  return owner
end

local function drop_oldest(index, status)
  local low, high = index_score(status, 0), index_score(status, LEASE_SCORE_BASE - 1)
  if redis.call('ZCOUNT', index, low, high) > LISTED_MAX then
    redis.call('ZREM', index, redis.call('ZRANGEBYSCORE', index, low, high, 'LIMIT', 0, 1)[1])
  end
end

-- At most LISTED_MAX finished jobs of each status stay in an index; the oldest jobs leave it.
local function index_finished_job(id, status, created_ms)
  local owner = index_job(id, status, created_ms)
  drop_oldest(JOB_INDEX, status)
  if owner then
    drop_oldest(index_of(owner), status)
  end
end
