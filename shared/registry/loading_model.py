"""Announce the model that a process loads, so that the api drops the card of an earlier model."""

import asyncio
from contextlib import suppress
from functools import partial

import structlog

from shared.model_source import source_digest
from shared.queue.keys import Keys
from shared.redis.client import UNREACHABLE, connect, is_refusal
from shared.redis.retry import retry_until_reachable
from shared.registry.worker_registry import Registry

ANNOUNCE_S = 2.0  # then loading starts without the announcement

log = structlog.get_logger(__name__)


async def announce_model(redis_url: str, keys: Keys, model: str) -> None:
    """Announce `model`, as the settings name it; log a warning if Redis does not answer in time."""
    client = connect(redis_url, name="falconer-announcement")
    try:
        async with asyncio.timeout(ANNOUNCE_S):
            announce = partial(_announce, Registry(client, keys), source_digest(model))
            await retry_until_reachable(announce, log, "the model announcement waits for Redis")
    except TimeoutError:
        log.warning("the model was not announced: Redis did not answer in time")
    finally:
        with suppress(*UNREACHABLE):
            await client.aclose()


async def _announce(registry: Registry, source: str) -> None:
    try:
        await registry.announce(source)
    except UNREACHABLE as error:
        if not is_refusal(error):  # the worker reports a refusal when it registers
            raise
