-- End a job, if the worker still owns its lease.
-- ARGV: id, worker, fencing token, status, attempts, result in arq's form, events for the subscribers,
--       '1' for a dead letter
-- Returns 1, or 0 if the worker does not own the lease.
local id, worker, fencing_token, status, attempts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local result, events, is_dead_letter = ARGV[6], ARGV[7], ARGV[8] == '1'

if not owns_lease(id, worker, fencing_token) then
  return 0
end
finish(id, status, attempts, result, events)
if is_dead_letter then
  redis.call('LPUSH', DEAD_LETTERS, id)
  redis.call('LTRIM', DEAD_LETTERS, 0, DEAD_LETTERS_MAX - 1)
end
return 1
