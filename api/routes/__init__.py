"""The routes: `chat`, `jobs`, `events`, `openai` and `ops`. `api/app.py` includes their routers."""
