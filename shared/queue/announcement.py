"""Announce which model loads: the api stops checking requests against one that none serves."""

import asyncio
from contextlib import suppress

import structlog

from shared.model_source import source_digest
from shared.queue.keys import Keys
from shared.queue.worker_registry import Registry
from shared.redis.client import UNREACHABLE, connect, is_refusal
from shared.redis.retry import Backoff

ANNOUNCE_S = 2.0  # loading waits no longer for a Redis that is away

log = structlog.get_logger(__name__)


async def announce_model(redis_url: str, queue: str, model: str) -> None:
    """Announce `model`, as the settings name it; log where Redis gives no answer in time."""
    client = connect(redis_url, name="falconer-announcement")
    try:
        async with asyncio.timeout(ANNOUNCE_S):
            await _announce(Registry(client, Keys(queue)), source_digest(model))
    except TimeoutError:
        log.warning("the model was not announced: Redis is away")
    finally:
        with suppress(*UNREACHABLE):
            await client.aclose()


async def _announce(registry: Registry, source: str) -> None:
    """Try until Redis takes it, which may start at the same time, or refuses it."""
    backoff = Backoff()
    while True:
        try:
            return await registry.announce(source)
        except UNREACHABLE as error:
            if is_refusal(error):
                return  # the worker says so when it registers
            await asyncio.sleep(backoff.next_s())
