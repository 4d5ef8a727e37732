"""OpenAI's interface: requests become jobs, and results and tokens its answers.

Routes import the bodies of `chat` and `completion` (their base is in `request`), what shows their
jobs from `chat_view`, `completion_view` and `view`, and error codes of `fields`. Others import
`schemas` (models and errors) and `answers`.
"""
