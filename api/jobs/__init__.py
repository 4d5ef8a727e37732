"""Jobs from the side of the api, without HTTP.

Routes import `JobClient` from `job_client`, `JobHandle` from `job_handle` and `redis_timeout` from
`redis_services`. `admission` and `pending_cancellations` are internal.
"""
