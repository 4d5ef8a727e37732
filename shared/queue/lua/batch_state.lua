-- Part of every script: the state of a batch, and the lease over it. The owner of the lease submits the lines
-- of the batch and writes their results.
-- Fields of the hash BATCH (times in Unix seconds):
--   spec: the BatchSpec in msgpack; it never changes.
--   status: validating, in_progress, finalizing, completed, failed, expired, cancelling or cancelled.
--   fencing_token: number of the latest lease; each lease has a higher number.
--   in_progress_at, finalizing_at, completed_at, failed_at, expired_at, cancelling_at, cancelled_at: when
--     the batch got each status.
--   final: the status after finalizing.
--   model: that of the first line.
--   errors: why the file is invalid, in JSON.
--   total, completed, failed: numbers of lines.
--   prompt_tokens, completion_tokens, cached_tokens: of the lines with an answer.
--   output_bytes, error_bytes: lengths of the two files.
--   next_line, next_offset: first line that may lack a result, and its place in the file.

local function owns_batch(id, fencing_token)
  return redis.call('HGET', BATCH .. id, 'fencing_token') == fencing_token
end
