-- Put before every script; `shared/scripts.py` puts the constants before this.
-- A waiting job's score lies below LEASED, a running job's is LEASED + the end of its lease.

local time = redis.call('TIME')
local NOW = time[1] * 1000 + time[2] / 1000 -- ms, with a fraction: keeps the order within one ms

local function ms(value)
  return string.format('%.0f', math.floor(value))
end

local function waiting()
  return redis.call('ZCOUNT', QUEUE, '-inf', '(' .. LEASED)
end

local function score_for_lease(lease_ms)
  return LEASED + math.floor(NOW) + tonumber(lease_ms)
end

-- One element is enough: whoever takes it and leaves ready jobs behind puts it back.
local function wake_a_worker()
  if redis.call('LLEN', WAKE) == 0 then
    redis.call('RPUSH', WAKE, '1')
  end
end

local function is_live(status)
  return status == 'queued' or status == 'running'
end

-- Whether `owner` ("worker:fence") still owns the job. Redis may have lost its last writes:
-- a lease that nobody has, no result ended and its owner did not release is given back.
local function holds(id, owner)
  local current = redis.call('GET', OWNER .. id)
  if current then
    return current == owner
  end
  local status, released = unpack(redis.call('HMGET', RECORD .. id, 'status', 'released_by'))
  local ended = status and not is_live(status) or redis.call('EXISTS', RESULT .. id) == 1
  return not ended and released ~= owner
end

-- The one way a job ends: result, record and the event for every watcher, all or nothing.
local function conclude(id, status, result, events)
  local record = RECORD .. id
  local known = redis.call('HMGET', record, 'ttl_ms', 'watchers', 'idempotency')
  local ttl = known[1] or RESULT_TTL_MS
  redis.call('SET', RESULT .. id, result, 'PX', ttl)
  redis.call('HSET', record, 'status', status, 'finished_ms', ms(NOW))
  redis.call('HSETNX', record, 'created_ms', ms(NOW))
  redis.call('HDEL', record, 'payload', 'cancel')
  redis.call('PEXPIRE', record, ttl)
  redis.call('ZREM', QUEUE, id)
  redis.call('DEL', JOB .. id, RETRY .. id, OWNER .. id)
  if known[3] then
    redis.call('PEXPIRE', IDEMPOTENCY .. known[3], ttl)
  end
  for replica in string.gmatch(known[2] or '', '%S+') do
    local stream = REPLIES .. replica
    redis.call('XADD', stream, 'MAXLEN', '~', REPLIES_MAX_ENTRIES, '*', 'events', events)
    redis.call('PEXPIRE', stream, REPLIES_TTL_MS)
  end
end

-- What `shared/queue.py` decodes into a JobRecord; false where there is no such job.
local function read_record(id)
  local fields = redis.call('HMGET', RECORD .. id,
    'status', 'created_ms', 'started_ms', 'finished_ms', 'worker', 'attempts')
  if not fields[1] then
    return false
  end
  if is_live(fields[1]) then
    fields[6] = redis.call('GET', RETRY .. id)
  end
  local rank = fields[1] == 'queued' and redis.call('ZRANK', QUEUE, id)
  return {fields, rank, redis.call('GET', RESULT .. id)}
end
