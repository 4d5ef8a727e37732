"""Submit, follow and cancel jobs for the routes.

Routes import `JobHandle` from `job_handle`, `redis_timeout` from `redis_services` and `owned_key`
from `idempotency`. They get the `JobClient` of `job_client` and the `DerivedJobs` of `derived_jobs`
from `api.services`, as the caller may use them. It also has the `tokenization` of long texts, and
runs the tasks of `served_models` and `pending_cancellations`. `api.app` assembles these and
`admission`.
"""
