"""The routes below `/v1`, where requests, responses and errors have OpenAI's shapes.

`completions` submits with `request_jobs` and streams with `chunk_stream`, `responses` with
`response_jobs`; `files` and `batches` store what `api.batches` runs; `models` lists, and `adapters`
loads and unloads. `app` includes the routers.
"""
