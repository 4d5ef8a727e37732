-- Cancel a job: one that waits, or whose worker died, ends here; one that runs, by its worker.
-- ARGV: id, result in arq's form, events for the watchers, 1 if its enqueueing may still arrive, the
--       latest time in ms for this to arrive
-- Returns the record as it is then, or {'late', time in ms}.
local id, result, events, may_arrive = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
if NOW > tonumber(ARGV[5]) then -- its caller was told that it failed
  return {'late', ms(NOW)}
end
local status, worker = unpack(redis.call('HMGET', RECORD .. id, 'status', 'worker'))

if not conclude_idle(id, 'cancelled', result, events) then
  if status == 'running' then
    local control = CONTROL .. worker
    -- In case the list is lost: renewals see it.
    redis.call('HSET', RECORD .. id, 'cancel', '1', 'cancel_result', result,
      'cancel_events', events)
    redis.call('RPUSH', control, id)
    redis.call('PEXPIRE', control, JOB_KEPT_MS)
  elseif not status and may_arrive then -- enqueueing finds a record and leaves it at that
    redis.call('HSET', RECORD .. id, 'status', 'cancelled', 'created_ms', ms(NOW))
    redis.call('PEXPIRE', RECORD .. id, TOMBSTONE_MS)
  end
end
return read_record(id)
