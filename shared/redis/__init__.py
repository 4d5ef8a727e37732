"""Clients for Redis.

Other packages import `connect` and `UNREACHABLE` from `client`, the retry helper from `retry`, and
`check_server` from `server_check`. `pool` and `url` are internal.
"""
