"""Submit, follow and cancel jobs for the routes.

Routes import `JobHandle` from `job_handle` and `redis_timeout` from `redis_services`. They get the
`JobClient` of `job_client` and the `DerivedJobs` of `derived_jobs` from `api.services`, which also
has the `tokenization` of long texts and runs the tasks of `served_models` and
`pending_cancellations`.
`api.app` assembles these and `admission`.
"""
