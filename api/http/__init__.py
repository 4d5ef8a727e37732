"""HTTP between uvicorn and the routes: connections, request headers and bodies, responses.

`connection_limits` is the protocol of one connection, and `paths` the middleware for prefixes.
Routes read a request with `headers` and `body`, wait with `disconnect`, and respond with
`responses` or `sse`. `content_coding` is internal.
"""
