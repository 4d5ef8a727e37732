"""Jobs from the side of the api. Of HTTP it knows only that a client may disconnect.

Routes import `JobClient` from `job_client`, `JobHandle` from `job_handle` and `redis_timeout` from
`redis_services`. The application starts the watcher of `model_watcher`. `admission` and
`pending_cancellations` are internal.
"""
