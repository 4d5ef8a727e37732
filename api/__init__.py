"""The HTTP service: requests become jobs in the queue, events and outcomes become responses.

`falconer` imports `main` from `server` and `ApiSettings` from `settings`.
"""
