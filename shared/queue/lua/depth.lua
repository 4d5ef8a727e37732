-- Returns {jobs that wait, jobs that a worker has}.
return {waiting(), redis.call('ZCOUNT', QUEUE, LEASED, '+inf')}
