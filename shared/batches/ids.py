"""Ids whose alphabetical order is that of creation, and pages of them."""

import secrets
import time
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis

MAX_ID = 64  # characters


def new_id(prefix: str) -> str:
    """Return a new id: the prefix, the time in ms as 12 hex digits, and 20 random digits."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a list a client wants."""

    limit: int
    after: str | None = None  # the id before the page; it may have been deleted
    oldest_first: bool = False


async def page_of_ids(redis: Redis, key: str, request: PageRequest) -> list[str]:
    """Return up to `limit` ids of the sorted set, all of score 0."""
    after = "" if request.after is None else f"({request.after}"
    if request.oldest_first:
        ids = await redis.zrangebylex(key, after or "-", "+", start=0, num=request.limit)
    else:
        ids = await redis.zrevrangebylex(key, after or "+", "-", start=0, num=request.limit)
    return [one.decode() for one in cast(list[bytes], ids)]
