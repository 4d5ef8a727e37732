"""The routes: `chat`, `jobs`, `events`, `tokenizer`, `ops`, and OpenAI's interface in `v1`.

`api/app.py` includes their routers. They respond with `responses` or, as a stream of events, with
`sse`.
"""
