"""Completions and chat completions: bodies of requests, and views of their jobs.

Routes import the bodies of `chat` and `completion`, and the views of `chat_view` and
`completion_view`.
"""
