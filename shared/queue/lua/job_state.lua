-- Put before every script: leases, how a job ends, and what is told of it.
-- A waiting job's score lies below LEASED, a running job's is LEASED + the end of its lease.

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

-- Whether the worker's lease still counts. Redis may have lost its last writes: a lease that
-- nobody has is given back, unless the job ended or the record knows this fence or a later one
-- (then it was released). Of an old lease a job without a record has ended long ago.
local function holds(id, worker, fence)
  local owner = redis.call('GET', OWNER .. id)
  if owner then
    return owner == worker .. ':' .. fence
  end
  local status, latest = unpack(redis.call('HMGET', RECORD .. id, 'status', 'fence'))
  if not status then
    return NOW - tonumber(fence) < TOMBSTONE_MS
  end
  return is_live(status) and tonumber(latest or 0) < tonumber(fence)
end

-- 1 if the latest lease came to running the job, 0 if not; arq counts there, a retried command
-- more than once.
local function begun(id)
  return redis.call('EXISTS', RETRY .. id)
end

-- One entry for all calls of an api replica.
local function send(replica, fields)
  local stream = REPLIES .. replica
  redis.call('XADD', stream, 'MAXLEN', '~', REPLIES_MAX_ENTRIES, '*', unpack(fields))
  redis.call('PEXPIRE', stream, REPLIES_TTL_MS)
end

-- A job that did not succeed can be retried for as long as its end is known.
local function keep_payload(id, ttl)
  local payload = redis.call('HGET', RECORD .. id, 'payload')
  if payload then
    redis.call('SET', PAYLOAD .. id, payload, 'PX', ttl)
  end
end

-- The one way a job ends: result, record and the event for every watcher, all or nothing.
-- The record outlives a short ttl, so that a worker that was frozen cannot end the job again.
local function conclude(id, status, attempts, result, events)
  local record = RECORD .. id
  local ttl, watchers, idempotency, created_ms, latest, tokens = unpack(redis.call('HMGET', record,
    'ttl_ms', 'watchers', 'idempotency', 'created_ms', 'status', 'tokens'))
  ttl, created_ms = tonumber(ttl or RESULT_TTL_MS), created_ms or ms(NOW)
  redis.call('SET', RESULT .. id, result, 'PX', ttl)
  if latest == 'queued' then
    leave_line(tonumber(tokens or 0))
  end
  if status ~= 'succeeded' then
    keep_payload(id, ttl)
  end
  redis.call('HSET', record, 'status', status, 'attempts', attempts,
    'created_ms', created_ms, 'finished_ms', ms(NOW))
  redis.call('HDEL', record, 'payload', 'cancel', 'cancel_result', 'cancel_events')
  redis.call('PEXPIRE', record, math.max(ttl, TOMBSTONE_MS))
  redis.call('PEXPIRE', LOG .. id, ttl)
  redis.call('HINCRBY', TOTALS, status, 1)
  redis.call('ZREM', QUEUE, id)
  index_end(id, status, created_ms)
  redis.call('DEL', JOB .. id, RETRY .. id, OWNER .. id)
  if idempotency then
    redis.call('PEXPIRE', IDEMPOTENCY .. idempotency, ttl)
  end
  for replica in string.gmatch(watchers or '', '%S+') do
    send(replica, {'events', events})
  end
end

-- Ends a job that waits, or whose worker died; false where there is none, or a worker runs it.
local function conclude_idle(id, status, result, events)
  local current, attempts = unpack(redis.call('HMGET', RECORD .. id, 'status', 'attempts'))
  local score = tonumber(redis.call('ZSCORE', QUEUE, id) or 0)
  if current == 'queued' or current == 'running' and score <= score_for_lease(0) then
    conclude(id, status, tonumber(attempts or 0) + begun(id), result, events)
    return true
  end
  return false
end

-- A running job that was cancelled has its end in its record: should its worker die or hand it back,
-- it ends without another one. False where there is no such job, or a worker runs it.
local function conclude_cancelled(id)
  local cancel, result, events =
    unpack(redis.call('HMGET', RECORD .. id, 'cancel', 'cancel_result', 'cancel_events'))
  return cancel and result and events and conclude_idle(id, 'cancelled', result, events)
end

-- What `shared/queue/records.py` decodes into a JobRecord; false where there is no such job, or none
-- any more: when a result's ttl is over, what is left of the record is no caller's business.
-- In brief, the result of a job that succeeded is ''.
local function read_record(id, is_brief)
  local fields = redis.call('HMGET', RECORD .. id,
    'status', 'created_ms', 'started_ms', 'finished_ms', 'worker', 'attempts', 'retry_of',
    'retried_as')
  local status = fields[1]
  if not status then
    return false
  elseif is_live(status) then
    fields[6] = tonumber(fields[6] or 0) + begun(id)
    return {fields, status == 'queued' and outlook(id, read_line()), false}
  elseif is_brief and status == 'succeeded' then
    return redis.call('EXISTS', RESULT .. id) == 1 and {fields, false, ''}
  end
  local result = redis.call('GET', RESULT .. id)
  return result and {fields, false, result}
end
