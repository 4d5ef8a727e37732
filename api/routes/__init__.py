"""The routes: `chat`, `jobs`, `events`, `completions`, `openai` and `ops`.

`api/app.py` includes their routers. They respond with `responses` or, as a stream of events, with
`sse`; `completions` with `openai_jobs` and `openai_stream`.
"""
