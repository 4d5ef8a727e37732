-- Returns {number of waiting jobs, number of leased jobs}.
return {num_waiting(), redis.call('ZCOUNT', QUEUE, LEASED, '+inf')}
