"""The job queue in Redis, with leases, reply streams and token logs.

The api and the workers import `JobQueue` from `job_queue`, the data of its calls from `claims`,
`enqueued`, `backlog` and `listing`, and `Keys` from `keys`. They import `ReplyStream` from
`reply_stream`, `TokenLog` from `token_log`, and the outcomes of cancelled and expired jobs from
`arq_format`. `job_records` finds the jobs of one owner or of all. `shared.registry` and
`shared.batches` also import `scripts`. Each change of the queue's state is one script of `lua`.
"""
