-- Add deltas to the token logs of a worker's jobs, and send them to all subscribers: one stream entry
-- per api replica, with one field per job. The field's name is the job's id; its value is the index
-- of the first delta, a space, and an array of deltas.
-- Deltas that a log has already are skipped, so the command may be repeated.
-- ARGV: worker, then for each job: id, fencing token, index of the first delta, number of deltas,
-- the deltas
-- Returns the length of each log; false where the worker does not hold the lease. A log that is
-- shorter than the index lost its end with Redis: nothing is added, and the worker resends from the
-- length that it gets.
local worker = ARGV[1]
local lengths, entries = {}, {}

local function array(packed) -- in msgpack
  local n = #packed
  local size = string.char(math.floor(n / 65536), math.floor(n / 256) % 256, n % 256)
  return string.char(0xdd, 0) .. size .. table.concat(packed)
end

local function publish(id, index, deltas)
  local value = index .. ' ' .. array(deltas)
  for replica in string.gmatch(redis.call('HGET', RECORD .. id, 'subscribers') or '', '%S+') do
    local entry = entries[replica] or {}
    entry[#entry + 1], entry[#entry + 2] = id, value
    entries[replica] = entry
  end
end

-- The deltas are ARGV[first] to ARGV[last].
local function append(id, index, first, last)
  local length = redis.call('LLEN', TOKEN_LOG .. id)
  local deltas = {}
  if length >= index then
    for i = first + length - index, last do
      deltas[#deltas + 1] = ARGV[i]
      redis.call('RPUSH', TOKEN_LOG .. id, ARGV[i])
    end
  end
  if #deltas > 0 then
    publish(id, length, deltas)
    if length == 0 then
      redis.call('PEXPIRE', TOKEN_LOG .. id, UNFINISHED_JOB_TTL_MS)
    end
  end
  return length + #deltas
end

local i = 2
while i <= #ARGV do
  local id, fencing_token = ARGV[i], ARGV[i + 1]
  local index, num = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  lengths[#lengths + 1] = owns_lease(id, worker, fencing_token) and append(id, index, i + 4, i + 3 + num)
  i = i + 4 + num
end
for replica, entry in pairs(entries) do
  send(replica, entry)
end
return lengths
