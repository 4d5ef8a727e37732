"""Clients for Redis.

Other packages import `connect`, `is_refusal`, `UNREACHABLE` and `COMMAND_TIMEOUT_S` from `client`,
`retry_until_reachable`, `backoff_delays` and `cause_of` from `retry`, and `check_server` from
`server_check`. `pool` and `url` are internal.
"""
