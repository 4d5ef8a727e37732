-- Add deltas to the token logs of a worker's jobs, and send them to all who watch: one stream entry
-- per api replica, with a field for each job: the index of its first delta, and an array of them.
-- The field is named after the job and, where it was retried, the first event id of its life now.
-- What a log has already is skipped, so the command may be repeated.
-- ARGV: worker, then for each job: id, fence, index of its first delta, how many, the deltas
-- Returns the length of each log; false where the job is not this worker's. A log that is shorter
-- than the index lost its end with Redis: nothing is added, the worker must send from there.
local worker = ARGV[1]
local lengths, entries = {}, {}

local function array(packed) -- in msgpack
  local n = #packed
  local size = string.char(math.floor(n / 65536), math.floor(n / 256) % 256, n % 256)
  return string.char(0xdd, 0) .. size .. table.concat(packed)
end

local function tell(id, index, deltas)
  local watchers, first_event = unpack(redis.call('HMGET', RECORD .. id, 'watchers', 'first_event'))
  local name, value = first_event and id .. ' ' .. first_event or id, index .. ' ' .. array(deltas)
  for replica in string.gmatch(watchers or '', '%S+') do
    local entry = entries[replica] or {}
    entry[#entry + 1], entry[#entry + 2] = name, value
    entries[replica] = entry
  end
end

-- The deltas are ARGV[first] to ARGV[last].
local function append(id, index, first, last)
  local length = redis.call('LLEN', LOG .. id)
  local deltas = {}
  if length >= index then
    for i = first + length - index, last do
      deltas[#deltas + 1] = ARGV[i]
      redis.call('RPUSH', LOG .. id, ARGV[i])
    end
  end
  if #deltas > 0 then
    tell(id, length, deltas)
    if length == 0 then
      redis.call('PEXPIRE', LOG .. id, JOB_KEPT_MS)
    end
  end
  return length + #deltas
end

local i = 2
while i <= #ARGV do
  local id, fence, index, num = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  lengths[#lengths + 1] = holds(id, worker, fence) and append(id, index, i + 4, i + 3 + num)
  i = i + 4 + num
end
for replica, entry in pairs(entries) do
  send(replica, entry)
end
return lengths
