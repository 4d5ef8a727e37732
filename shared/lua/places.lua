-- Put before every script: who is refused, when to come back, and the places of those who do.
-- Refused callers wait in a line of their own, one place every so many ms. Who comes back when told
-- is known by `caller`, a digest of what it asks, and goes before newcomers.
-- Sorted set PLACES      '<caller> <number>' -> the time in ms at which the place falls due
-- Sorted set PLACES_END  the same -> when it is given up, for its holder did not come

local MIN_RETRY_AFTER_MS, MAX_RETRY_AFTER_MS = 1000, 600000
local LATE_MS = 5000 -- so much later than told a holder may come
local MOST_PLACES = 8 -- of callers who ask for the same
-- Who comes too early must come again, who comes late finds the place kept: so callers are told a
-- longer time than the measured pace says.
local MARGIN, SPARE_MS = 1.2, 1000

local function give_up_places()
  local ended = redis.call('ZRANGEBYSCORE', PLACES_END, '-inf', NOW, 'LIMIT', 0, 1000)
  if #ended > 0 then
    redis.call('ZREM', PLACES, unpack(ended))
    redis.call('ZREM', PLACES_END, unpack(ended))
  end
end

-- The caller's first place and when it is due, or nil; and a name for one more, or nil if it has
-- too many.
local function find_place(caller)
  local names, place, place_ms, name = {}, nil, math.huge, nil
  for number = 1, MOST_PLACES do
    names[number] = caller .. ' ' .. number
  end
  for number, due_ms in ipairs(redis.call('ZMSCORE', PLACES, unpack(names))) do
    due_ms = tonumber(due_ms)
    if not due_ms then
      name = name or names[number]
    elseif due_ms < place_ms then
      place, place_ms = names[number], due_ms
    end
  end
  return place, place_ms, name
end

-- How many go before the caller with this place; before a newcomer all go who were told to come.
local function num_before(place)
  return place and redis.call('ZRANK', PLACES, place) or redis.call('ZCARD', PLACES)
end

local function keep_place(place, due_ms, retry_ms)
  redis.call('ZADD', PLACES, 'NX', string.format('%.3f', due_ms), place)
  redis.call('ZADD', PLACES_END, string.format('%.3f', NOW + retry_ms + LATE_MS), place)
  for _, key in ipairs({PLACES, PLACES_END}) do
    redis.call('PEXPIRE', key, MAX_RETRY_AFTER_MS + LATE_MS)
  end
end

-- A newcomer takes the next place in the line of refused callers.
local function next_place(line, need_ms, slot_ms)
  local due_ms = math.max(NOW + need_ms, line.promised_ms + slot_ms)
  due_ms = math.min(due_ms, NOW + MAX_RETRY_AFTER_MS)
  redis.call('HSET', LINE, 'promised_ms', string.format('%.3f', due_ms))
  return due_ms
end

-- In ms, when a refused caller should come back: the holder of a place that is due, or a newcomer,
-- who gets a place by this name.
local function come_back(line, place, name, need_ms, slot_ms)
  need_ms, slot_ms = MARGIN * need_ms, MARGIN * slot_ms
  local due_ms = place and NOW + need_ms or next_place(line, need_ms, slot_ms)
  local retry_ms = due_ms - NOW + (place and 0 or SPARE_MS)
  retry_ms = math.min(math.max(retry_ms, MIN_RETRY_AFTER_MS), MAX_RETRY_AFTER_MS)
  if place or name and retry_ms < MAX_RETRY_AFTER_MS then
    keep_place(place or name, due_ms, retry_ms)
  end
  return ms(math.ceil(retry_ms)) -- not before the place is due
end

-- Whether a job may join the line: nil and the number of jobs that wait; or a refusal: {verdict, ms
-- until its caller should come back or false, jobs that wait, tokens that wait, ms until its start
-- or false, places of others that were kept free}.
local function refuse(line, caller, score, tokens, time_ms, max_jobs, max_tokens)
  local num, verdict, wait_ms, need_ms = waiting(), nil, false, 0
  if num >= max_jobs then
    forget_lost_jobs(line)
    num = waiting()
  end
  local job_ms, token_ms, pause_ms = drain_times(line)
  local slot_ms, before, place, due_ms, name = job_ms, 0, nil, nil, nil
  if job_ms then -- else no job stands: there is room for whoever comes
    give_up_places()
    place, due_ms, name = find_place(caller)
    before = num_before(place)
  end
  -- Half of the line at most is kept free: where nobody comes, workers must not run dry.
  local kept = math.min(before, math.floor(max_jobs / 2))
  local kept_tokens = math.min(kept * line.tokens / math.max(num, 1), max_tokens / 2) -- likely
  if num + kept >= max_jobs then
    verdict, need_ms = 'too many jobs', (num + before - max_jobs + 1) * (job_ms or 0)
  elseif num > 0 and line.tokens + kept_tokens + tokens > max_tokens then -- alone, any size may wait
    need_ms = (line.tokens + kept_tokens + tokens - max_tokens) * (token_ms or 0)
    verdict, slot_ms = 'too many tokens', tokens * (token_ms or 0)
  elseif job_ms and time_ms < JOB_TTL_MS then
    wait_ms = redis.call('ZCOUNT', QUEUE, '-inf', '(' .. score) * job_ms
    verdict, need_ms = wait_ms > time_ms and 'too late', wait_ms - time_ms
  end
  if verdict then
    local held = place and due_ms <= NOW and place -- before that, it may be another's who asks the same
    local retry_ms = job_ms and come_back(line, held, name, need_ms + pause_ms - job_ms, slot_ms)
    return {verdict, retry_ms or false, num, line.tokens, wait_ms and ms(wait_ms), kept}
  elseif place then
    redis.call('ZREM', PLACES, place)
    redis.call('ZREM', PLACES_END, place)
  end
  return nil, num
end
