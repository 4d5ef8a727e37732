-- Returns {number of waiting jobs, number of leased jobs}.
return {num_waiting(), redis.call('ZCOUNT', QUEUE, LEASE_SCORE_BASE, '+inf')}
