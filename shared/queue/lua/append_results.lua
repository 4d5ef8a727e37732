-- Append the results of lines to the files of a batch, each line once.
-- ARGV: id, fencing token, ids of the output and the error file, next line, its offset, ttl in ms;
--       then for each line: its number from 0, '1' for an answer or '0' for an error, the result,
--       prompt tokens, completion tokens, cached tokens
-- Returns the status of the batch; false if another owner has the lease.
local id, fencing_token, output_id, error_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local next_line, next_offset, ttl_ms = ARGV[5], ARGV[6], ARGV[7]
local batch, lines = BATCH .. id, BATCH_LINES .. id

if not owns_batch(id, fencing_token) then
  return false
end
local function add(field, value)
  if tonumber(value) > 0 then
    redis.call('HINCRBY', batch, field, value)
  end
end
for i = 8, #ARGV, 6 do
  local is_answer, result = ARGV[i + 1] == '1', ARGV[i + 2]
  if redis.call('SETBIT', lines, ARGV[i], 1) == 0 then
    redis.call('RPUSH', FILE_DATA .. (is_answer and output_id or error_id), result)
    add(is_answer and 'completed' or 'failed', 1)
    add(is_answer and 'output_bytes' or 'error_bytes', #result)
    add('prompt_tokens', ARGV[i + 3])
    add('completion_tokens', ARGV[i + 4])
    add('cached_tokens', ARGV[i + 5])
  end
end
redis.call('HSET', batch, 'next_line', next_line, 'next_offset', next_offset)
for _, key in ipairs({lines, FILE_DATA .. output_id, FILE_DATA .. error_id}) do
  redis.call('PEXPIRE', key, ttl_ms)
end
return redis.call('HGET', batch, 'status')
