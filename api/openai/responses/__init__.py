"""Responses: bodies of requests, what is stored of them, and views of their jobs.

Routes import the body of `request` with the messages of `input`, `StoredResponse` of `stored`, the
view of `view`, the events of `events` and the objects of `objects`.
"""
