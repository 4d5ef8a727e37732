"""The routes: `chat`, `jobs`, `derived`, `estimate`, `events`, `tokenizer`, `ops`, and `v1`.

`api/app.py` includes their routers. They respond with `responses` or, as a stream of events, with
`sse`.
"""
