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
        self._grammar_slot = asyncio.Semaphore(1)  # a checker checks one at a time

    async def run(self, work: Callable[[], T], num_chars: int, client: ClientConnection) -> T:
        """Return the result of `work` on a text of `num_chars` characters.

        A long text waits for its turn. Raises ServiceUnavailable, ClientDisconnected and
        ServerStopping then.
        """
        if num_chars <= LONG_TEXT_CHARS:
            return work()
        return await client.run_until_disconnect(self._in_slot(work, self._slots))

    async def check_grammar(self, check: Callable[[], None], client: ClientConnection) -> None:
        """Run the check of a grammar, which may take seconds, in its turn. Raises as `run`."""
        await client.run_until_disconnect(self._in_slot(check, self._grammar_slot))

    async def _in_slot(self, work: Callable[[], T], slots: asyncio.Semaphore) -> T:
        try:
            async with asyncio.timeout(SLOT_TIMEOUT_S):
                await slots.acquire()
        except TimeoutError:
            raise ServiceUnavailable(
                f"busy with other long prompts or grammars: at most {TOKENIZATION_SLOTS} prompts "
                f"of over {LONG_TEXT_CHARS} characters and one grammar at a time, and none ended "
                f"in {SLOT_TIMEOUT_S:g} s",
                retry_after_s=round(SLOT_TIMEOUT_S),
            ) from None
        running = asyncio.ensure_future(asyncio.to_thread(work))
        running.add_done_callback(lambda _: slots.release())
        return await asyncio.shield(running)  # a disconnect does not end the thread
