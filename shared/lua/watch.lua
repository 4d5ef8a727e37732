-- Read a job's record and, with a replica, have its terminal event sent there too.
-- ARGV: id, replica or ''
local id, replica = ARGV[1], ARGV[2]
local status, watchers = unpack(redis.call('HMGET', RECORD .. id, 'status', 'watchers'))

if replica ~= '' and status and is_live(status) then
  local list = ' ' .. (watchers or '') .. ' '
  if not string.find(list, ' ' .. replica .. ' ', 1, true) then
    redis.call('HSET', RECORD .. id, 'watchers', (watchers or '') .. ' ' .. replica)
  end
end
return read_record(id)
