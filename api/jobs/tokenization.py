"""Tokenize long texts in threads, a few at a time, so that other requests continue."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from api.http.disconnect import ClientConnection
from shared.errors import ServiceUnavailable

LONG_TEXT_CHARS = 8_000  # a thread is slower for a shorter text
TOKENIZATION_SLOTS = 2  # threads for long texts
SLOT_TIMEOUT_S = 10.0  # for a slot; a long text may take seconds, and others may be waiting

T = TypeVar("T")


class Tokenization:
    """Run the work of a tokenizer for the requests of one api process."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(TOKENIZATION_SLOTS)

    async def run(self, work: Callable[[], T], num_chars: int, client: ClientConnection) -> T:
        """Return the result of `work` on a text of `num_chars` characters.

        A long text waits for its turn. Raises ServiceUnavailable, ClientDisconnected and
        ServerStopping then.
        """
        if num_chars <= LONG_TEXT_CHARS:
            return work()
        return await client.run_until_disconnect(self._in_slot(work))

    async def _in_slot(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(SLOT_TIMEOUT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise ServiceUnavailable(
                f"busy with other long prompts: at most {TOKENIZATION_SLOTS} prompts of over "
                f"{LONG_TEXT_CHARS} characters at a time, and none ended in {SLOT_TIMEOUT_S:g} s",
                retry_after_s=round(SLOT_TIMEOUT_S),
            ) from None
        running = asyncio.ensure_future(asyncio.to_thread(work))
        running.add_done_callback(lambda _: self._slots.release())
        return await asyncio.shield(running)  # a disconnect does not end the thread
