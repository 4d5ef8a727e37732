"""Submit, follow and cancel jobs for the routes. Its only input from HTTP is a disconnect.

Routes import `JobClient` from `job_client`, `JobHandle` from `job_handle` and `redis_timeout` from
`redis_services`. The application starts the watcher of `model_watcher`. `admission` and
`pending_cancellations` are internal.
"""
