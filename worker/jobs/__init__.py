"""Run jobs of the queue: claim them, renew their leases, generate, write tokens and outcomes.

`worker/process.py` assembles `LeasedWorker` from `leased_worker`, `Capacity` from `capacity`,
`ChatTask` from `task`, `TokenLogWriter` from `token_log_writer`, `JobFollower` from `job_follower`,
and the loops in `redis_loops`.
"""
