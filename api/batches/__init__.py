"""Run batches: read the lines of their files, submit each as jobs, and write the results.

`api.app` makes the `LineJobs` of `line_jobs`, and `api.services` runs the `BatchRunner` of
`runner`. Routes import `Upload` from `upload`.
"""
