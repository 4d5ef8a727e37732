"""The `Idempotency-Key` request header: a call that comes again with it finds its job."""

from typing import Annotated

from fastapi import Depends, Header, Request

from shared.errors import BadRequest

NAME = "Idempotency-Key"

KeyHeader = Annotated[
    str | None,
    Header(
        alias=NAME,
        min_length=1,
        max_length=255,
        description="Same key and same body: the same job, also after it is done.",
    ),
]


async def only_key(request: Request, key: KeyHeader = None) -> str | None:
    """Raises BadRequest where two differ: the caller and a proxy may each mean theirs."""
    num_keys = len(set(request.headers.getlist(NAME)))
    if num_keys > 1:
        raise BadRequest(f"should be given once, got {num_keys} different ones", field=NAME)
    return key


IdempotencyKey = Annotated[str | None, Depends(only_key)]
