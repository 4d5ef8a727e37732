"""The routes: `chat`, `jobs`, `estimate`, `events`, `tokenizer`, `ops`; OpenAI's in `v1`.

`api/app.py` includes their routers. They respond with `responses` or, as a stream of events, with
`sse`.
"""
