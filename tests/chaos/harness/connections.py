"""HTTP connections of the harness: unlimited, with a keep-alive that cannot expire in use."""

import httpx

# Shorter than the server's, which would close a connection at the moment of its use. Longer than
# the callers' pauses: httpcore's pool also closes a connection that expires at that moment.
KEEP_ALIVE_S = 30.0


def new_http(timeout_s: float | None) -> httpx.AsyncClient:
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_S
    )
    return httpx.AsyncClient(timeout=timeout_s, limits=limits, trust_env=False)
