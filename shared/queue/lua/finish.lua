-- Write the end of a job, if the worker still owns it.
-- ARGV: id, worker, fence, status, attempts, result in arq's form, events for the watchers, dead
--       letter
-- Returns 1 when it was written, 0 when the job is another's or has ended.
local id, worker, fence, status, attempts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local result, events, is_dead_letter = ARGV[6], ARGV[7], ARGV[8] == '1'

if not holds(id, worker, fence) then
  return 0
end
conclude(id, status, attempts, result, events)
if is_dead_letter then
  redis.call('LPUSH', DEAD_LETTERS, id)
  redis.call('LTRIM', DEAD_LETTERS, 0, DEAD_LETTERS_MAX - 1)
end
return 1
