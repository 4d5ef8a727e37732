"""The connections of the harness: as many as its callers want, none closed while one uses it."""

import httpx

# Shorter than the server's, or it closes a connection just when it is used. Longer than any wait
# that callers share: httpcore's pool, too, closes one that expires just when it is used.
KEEP_ALIVE_S = 30.0


def new_http(timeout_s: float | None) -> httpx.AsyncClient:
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_S
    )
    return httpx.AsyncClient(timeout=timeout_s, limits=limits, trust_env=False)
