"""The shapes of OpenAI's interface, in `schemas`. Its routes are in `api/routes/openai.py`."""
