-- Returns {number of waiting jobs, number of leased jobs}. A leased job is "running" in the api.
return {num_waiting(), redis.call('ZCOUNT', QUEUE, LEASE_SCORE_BASE, '+inf')}
