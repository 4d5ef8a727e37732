-- Put before every script: who is refused, when to come back, and the places of those who do.
-- Refused callers wait in a line of their own, one place every so many ms. Who comes back when told
-- is known by a digest, and goes before newcomers.
-- Sorted set PLACES      '<digest> <number>' -> the time in ms at which the place falls due, less
--                        CAME if its holder came then and found no room: it goes before all others
-- Sorted set PLACES_END  the same -> when it is given up, for its holder did not come

local CAME = 1e12
local MAX_RETRY_AFTER_MS = 600000
-- Callers are told more than the measured pace says: who comes too early must come again.
local MARGIN, SPARE_MS = 1.2, 1000
local LATE_MS, LATE_SHARE = 5000, 0.1 -- so much later than told, at least, a holder may come
local SOON_MS = 10000 -- newcomers leave room for those who fall due by then
local MOST_PLACES = 10000 -- about 320 bytes each
local SAME_BODY_PLACES = 8 -- of callers who ask for the same and have no key to tell them apart

local function give_up_places()
  local ended = redis.call('ZRANGEBYSCORE', PLACES_END, '-inf', NOW, 'LIMIT', 0, 1000)
  if #ended > 0 then
    need_memory()
    redis.call('ZREM', PLACES, unpack(ended))
    redis.call('ZREM', PLACES_END, unpack(ended))
  end
end

-- Its holder was let in; nil where it had none.
local function leave_place(place)
  if place then
    redis.call('ZREM', PLACES, place)
    redis.call('ZREM', PLACES_END, place)
  end
end

-- The caller's first place, its score, whether it is the one that this caller holds, and a name for
-- one more, or nil if it has too many.
-- caller: {digest, most_places}, the latter 1 where nobody else has this digest
local function find_place(caller)
  local names, found = {}, {score = math.huge}
  for number = 1, caller.most_places do
    names[number] = caller.digest .. ' ' .. number
  end
  for number, score in ipairs(redis.call('ZMSCORE', PLACES, unpack(names))) do
    score = tonumber(score)
    if not score then
      found.name = found.name or names[number]
    elseif score < found.score then
      found.place, found.score = names[number], score
    end
  end
  found.is_held = found.score <= NOW or found.place and caller.most_places == 1
  return found
end

-- As whose holder came when it was due.
local function came(score)
  return score > NOW - CAME and score - CAME or score
end

-- For how many others a caller leaves room: a newcomer for all who come soon, who comes too early
-- for those before it, who comes when told for those before it who came and found none.
local function num_before(found)
  local score = math.min(found.score, NOW + SOON_MS)
  score = found.score <= NOW and came(found.score) or score
  return redis.call('ZCOUNT', PLACES, '-inf', string.format('(%.3f', score))
end

local function keep_place(place, score, retry_ms)
  local end_ms = NOW + retry_ms + math.max(LATE_MS, LATE_SHARE * retry_ms)
  redis.call('ZADD', PLACES, string.format('%.3f', score), place)
  redis.call('ZADD', PLACES_END, string.format('%.3f', end_ms), place)
  for _, key in ipairs({PLACES, PLACES_END}) do
    redis.call('PEXPIRE', key, 2 * MAX_RETRY_AFTER_MS)
  end
end

-- The holder of a place comes again: in ms, when.
local function hold_place(found, retry_ms)
  keep_place(found.place, found.score <= NOW and came(found.score) or found.score, retry_ms)
  return retry_ms
end

-- A newcomer takes the next place, unless it is too far away or there are too many: in ms, when to
-- come.
local function take_place(line, found, need_ms, slot_ms)
  local due_ms = math.max(NOW + need_ms, line.promised_ms + slot_ms)
  local retry_ms = due_ms - NOW + SPARE_MS
  if retry_ms > MAX_RETRY_AFTER_MS then
    return MAX_RETRY_AFTER_MS
  end
  redis.call('HSET', LINE, 'promised_ms', string.format('%.3f', due_ms))
  if found.name and redis.call('ZCARD', PLACES) < MOST_PLACES then
    keep_place(found.name, due_ms, retry_ms)
  end
  return retry_ms
end

-- In ms, when a caller comes back for whom so many jobs or tokens (`unit`: what one takes) have to
-- leave; `slot`: how many it is itself.
local function come_back(line, found, drain, unit, num_over, slot)
  if not drain then
    return found.is_held and hold_place(found, UNKNOWN_RETRY_AFTER_MS) or UNKNOWN_RETRY_AFTER_MS
  end
  -- Several leave at once, and then none for a while.
  local need_ms = MARGIN * (num_over * drain[unit] + drain.claim_ms - drain.job_ms)
  if found.is_held then
    local left_ms = found.score > NOW and found.score - NOW or need_ms
    return hold_place(found, math.min(left_ms + SPARE_MS, MAX_RETRY_AFTER_MS))
  end
  return take_place(line, found, need_ms, MARGIN * slot * drain[unit])
end

-- Whether a job may join the line: nil, the number of jobs that wait and the place that it leaves;
-- or a refusal: {verdict, ms until its caller should come back, jobs that wait, tokens that wait, ms
-- until its start or false, how many places of others were kept free}.
local function refuse(line, caller, score, tokens, time_ms, max_jobs, max_tokens)
  local num = waiting()
  if num >= max_jobs then
    forget_lost_jobs(line)
    num = waiting()
  end
  give_up_places()
  local found, drain = find_place(caller), drain_times(line)
  local before = drain and num_before(found) or 0 -- while no job stands, workers take all
  -- Half of the line at most is kept free: where nobody comes back, workers must not run dry.
  local kept = math.min(before, math.floor(max_jobs / 2))
  local kept_tokens = math.min(kept * line.tokens / math.max(num, 1), max_tokens / 2) -- on average
  local tokens_over = line.tokens + kept_tokens + tokens - max_tokens
  local verdict, retry_ms, wait_ms
  if num + kept >= max_jobs then
    verdict = 'too many jobs'
    retry_ms = come_back(line, found, drain, 'job_ms', num + before + 1 - max_jobs, 1)
  elseif num > 0 and tokens_over > 0 then -- alone, a job of any size may wait
    verdict = 'too many tokens'
    retry_ms = come_back(line, found, drain, 'token_ms', tokens_over, tokens)
  elseif drain and time_ms < JOB_TTL_MS then
    wait_ms = redis.call('ZCOUNT', QUEUE, '-inf', '(' .. score) * drain.job_ms
    verdict = wait_ms > time_ms and 'too late' -- no place would make the line shorter
    retry_ms = math.min(MARGIN * (wait_ms - time_ms) + SPARE_MS, MAX_RETRY_AFTER_MS)
  end
  if not verdict then
    return nil, num, found.place
  end
  return {verdict, ms(math.ceil(retry_ms)), num, line.tokens, wait_ms and ms(wait_ms) or false, kept}
end
