"""HTTP between uvicorn and the routes: connections, request headers and bodies, errors.

`connection_limits` is the protocol of one connection, and `paths` the middleware for prefixes.
Routes read a request with `headers` and `body`, wait with `disconnect`, and respond with `errors`.
`content_coding` is internal.
"""
