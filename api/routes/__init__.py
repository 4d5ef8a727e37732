"""The routes: `chat`, `jobs`, `events`, `openai` and `ops`. `api/app.py` includes their routers.

They respond with `responses` or, as a stream of events, with `sse`.
"""
