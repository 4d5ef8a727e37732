-- Hand jobs back unfinished: they wait again at their old place and the attempt does not count. One
-- that was cancelled meanwhile ends.
-- ARGV: worker, then id and fence of each job
-- Returns how many were handed back.
local worker = ARGV[1]
local released = 0

for i = 2, #ARGV, 2 do
  local id, owner = ARGV[i], worker .. ':' .. ARGV[i + 1]
  local record = RECORD .. id
  local score, tokens, created_ms =
    unpack(redis.call('HMGET', record, 'score', 'tokens', 'created_ms'))
  if score and redis.call('GET', OWNER .. id) == owner then
    join_line(id, score, tonumber(tokens or 0))
    index_job(id, 'queued', created_ms)
    redis.call('HSET', record, 'status', 'queued')
    redis.call('HDEL', record, 'worker', 'started_ms')
    redis.call('DEL', OWNER .. id, RETRY .. id)
    conclude_cancelled(id)
    released = released + 1
  end
end
if released > 0 then
  wake_a_worker()
end
return released
