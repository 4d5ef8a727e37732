-- Part of every script: the record of a job, its lease, and its end.
-- A waiting job's score in QUEUE lies below LEASE_SCORE_BASE; a running job's is LEASE_SCORE_BASE + the end of its lease.
-- Fields of the hash RECORD (times in Unix ms):
--   payload: the ChatJob in msgpack, until the job ends.
--   status: queued, running, succeeded, failed, cancelled or expired.
--   created_ms, started_ms, finished_ms; started_ms is the time of the latest claim.
--   deadline_ms, ttl_ms: when a worker stops the job; how long its result is kept.
--   cost_rows, cost_tokens: batch rows and KV cache tokens that the job needs.
--   queue_score: its place in the backlog, for a release by its worker.
--   lane: 'batch' for the job of a batch, which waits in BATCH_LANE until no other job waits.
--   subscribers: ids of api replicas that want its events, separated by spaces.
--   idempotency: digest of its Idempotency-Key.
--   worker, fencing_token: worker and number of the latest lease; each lease has a higher number.
--   attempts: runs that died with their workers; after the end, also the run that ended the job.
--   cancel_result, cancel_events: how the job ends if its worker dies; a client has cancelled it.
--   trail: one line for each claim, start, lost lease and release, see extended_trail.
--   retry_of, retried_as: id of the job that this job retries; id of its own retry.
--   metadata: pairs of the client in msgpack; absent without any.
--   origin: how the job was made from another one, a space, the id of that job.
--   model: the model whose queue has the job; absent for the first model of the service.
--   owner: the name of the API key that submitted it; absent without keys.

local function lease_score(lease_ms)
  return LEASE_SCORE_BASE + math.floor(NOW) + tonumber(lease_ms)
end

-- One element is enough: a worker that takes it and leaves ready jobs behind puts it back.
local function wake_a_worker()
  if redis.call('LLEN', WAKE) == 0 then
    redis.call('RPUSH', WAKE, '1')
  end
end

-- Adds a job to the jobs that wait, at the place of `score` in its lane.
local function add_to_lane(id, lane, score, tokens)
  if lane then
    redis.call('ZREM', QUEUE, id)
    redis.call('ZADD', BATCH_LANE, score, id)
  else
    add_to_backlog(id, score, tokens)
  end
end

local function remove_from_lane(id, lane, tokens)
  if lane then
    redis.call('ZREM', BATCH_LANE, id)
  else
    subtract_from_backlog(tokens)
  end
end

-- The record names the model of this script, so that scripts for any model find the job's queue.
local function write_model(id)
  if MODEL ~= '' then
    redis.call('HSET', RECORD .. id, 'model', MODEL)
  end
end

-- The submitting key owns the job from its acceptance on.
local function write_owner(id, owner)
  if owner ~= '' then
    redis.call('HSET', RECORD .. id, 'owner', owner)
  end
end

-- Returns whether an owner may see the job; '' sees the jobs of all owners.
local function is_visible(id, owner)
  return owner == '' or redis.call('HGET', RECORD .. id, 'owner') == owner
end

local function is_live(status)
  return status == 'queued' or status == 'running'
end

-- Returns the trail with one more line: ms, event, attempts, worker. A command that is repeated adds no
-- second line. Of a long trail, the latest TRAIL_MAX_BYTES stay.
local function extended_trail(trail, event, attempts, worker)
  trail = trail or ''
  local line = event .. ' ' .. attempts .. ' ' .. worker .. '\n'
  if string.sub(trail, -#line - 1) == ' ' .. line then
    return trail
  end
  trail = trail .. ms(NOW) .. ' ' .. line
  local excess = #trail - TRAIL_MAX_BYTES
  return excess <= 0 and trail or string.sub(trail, string.find(trail, '\n', excess, true) + 1)
end

-- Returns whether this lease of the worker is valid.
local function owns_lease(id, worker, fencing_token)
  local owner = redis.call('GET', ARQ_IN_PROGRESS .. id)
  if owner then -- the latest lease
    return owner == worker .. ':' .. fencing_token
  end
  local status, latest = unpack(redis.call('HMGET', RECORD .. id, 'status', 'fencing_token'))
  if not status then -- the record of an ended job outlives a young lease, so Redis lost this record
    return NOW - tonumber(fencing_token) < MIN_RECORD_TTL_MS
  end
  -- Redis lost the claim: the record is of an earlier lease. Otherwise the job was released, or has ended.
  return is_live(status) and tonumber(latest or 0) < tonumber(fencing_token)
end

-- Returns 1 if the worker of the latest lease started the job, else 0.
local function has_started(id)
  return redis.call('EXISTS', ARQ_RETRY .. id)
end

-- Adds one entry to the stream of an api replica.
local function send(replica, fields)
  local stream = REPLIES .. replica
  redis.call('XADD', stream, 'MAXLEN', '~', REPLIES_MAX_ENTRIES, '*', unpack(fields))
  redis.call('PEXPIRE', stream, REPLIES_TTL_MS)
end

-- Until its result expires, a job that did not succeed can be retried, and one with a token log continued.
local function keep_payload(id, ttl_ms)
  local payload = redis.call('HGET', RECORD .. id, 'payload')
  if payload then
    redis.call('SET', RETRY_PAYLOAD .. id, payload, 'PX', ttl_ms)
  end
end

-- Ends a job: result, record and the terminal event for every subscriber, all or nothing. The record
-- outlives a short ttl, so that a worker that was frozen cannot end the job again.
local function finish(id, status, attempts, result, events)
  local record = RECORD .. id
  local ttl_ms, subscribers, idempotency, created_ms, previous_status, tokens, lane =
    unpack(redis.call('HMGET', record,
      'ttl_ms', 'subscribers', 'idempotency', 'created_ms', 'status', 'cost_tokens', 'lane'))
  ttl_ms, created_ms = tonumber(ttl_ms or RESULT_TTL_MS), created_ms or ms(NOW)
  redis.call('SET', ARQ_RESULT .. id, result, 'PX', ttl_ms)
  if previous_status == 'queued' then
    remove_from_lane(id, lane, tonumber(tokens or 0))
  end
  local has_log = redis.call('PEXPIRE', TOKEN_LOG .. id, ttl_ms) == 1
  if status ~= 'succeeded' or has_log then
    keep_payload(id, ttl_ms)
  end
  redis.call('HSET', record, 'status', status, 'attempts', attempts,
    'created_ms', created_ms, 'finished_ms', ms(NOW))
  write_model(id) -- Redis may have lost the record
  redis.call('HDEL', record, 'payload', 'cancel_result', 'cancel_events')
  redis.call('PEXPIRE', record, math.max(ttl_ms, MIN_RECORD_TTL_MS))
  redis.call('PEXPIRE', RESPONSE .. id, ttl_ms)
  redis.call('HINCRBY', TOTALS, status, 1)
  redis.call('ZREM', QUEUE, id)
  index_finished_job(id, status, created_ms)
  redis.call('DEL', ARQ_JOB .. id, ARQ_RETRY .. id, ARQ_IN_PROGRESS .. id)
  if idempotency then
    redis.call('PEXPIRE', IDEMPOTENCY .. idempotency, ttl_ms)
  end
  for replica in string.gmatch(subscribers or '', '%S+') do
    send(replica, {'events', events})
  end
end

-- Ends a job of any model without a valid lease: it waits, or its worker died. Returns whether there was one.
local function finish_unowned(id, status, result, events)
  local current, attempts, model =
    unpack(redis.call('HMGET', RECORD .. id, 'status', 'attempts', 'model'))
  if not current then
    return false
  end
  use_model(model)
  local score = tonumber(redis.call('ZSCORE', QUEUE, id) or 0)
  if current == 'queued' or current == 'running' and score <= lease_score(0) then
    finish(id, status, tonumber(attempts or 0) + has_started(id), result, events)
    return true
  end
  return false
end

-- Ends a job that a client cancelled, after its worker died or released it. Returns whether it did.
local function finish_cancelled(id)
  local result, events =
    unpack(redis.call('HMGET', RECORD .. id, 'cancel_result', 'cancel_events'))
  return result and events and finish_unowned(id, 'cancelled', result, events)
end

-- Returns {fields, estimate or false, result or false}, which `shared/queue/listing.py` decodes. Returns
-- false if there is no such job or its result has expired. With `is_brief`, the result of a succeeded job
-- is ''.
local function read_record(id, is_brief)
  local fields = redis.call('HMGET', RECORD .. id,
    'status', 'created_ms', 'started_ms', 'finished_ms', 'worker', 'attempts', 'retry_of',
    'retried_as', 'metadata', 'origin', 'model', 'owner')
  local status = fields[1]
  if not status then
    return false
  elseif is_live(status) then
    use_model(fields[11])
    fields[6] = tonumber(fields[6] or 0) + has_started(id)
    return {fields, status == 'queued' and estimate(id, read_backlog()), false}
  elseif is_brief and status == 'succeeded' then
    return redis.call('EXISTS', ARQ_RESULT .. id) == 1 and {fields, false, ''}
  end
  local result = redis.call('GET', ARQ_RESULT .. id)
  return result and {fields, false, result}
end
