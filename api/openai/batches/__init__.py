"""OpenAI's files and batches: bodies, lines of files, and the objects of answers.

`api.batches` runs batches with `lines` and `objects`; the routes use `request` and `objects`.
"""
