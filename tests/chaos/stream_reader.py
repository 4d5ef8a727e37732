"""Reads a job's events over as many connections as it takes, from replica to replica."""

import asyncio
import time
from contextlib import suppress
from random import Random

from shared.protocol import JobStatus
from tests.chaos.client import PAUSE_S, Answer, Call, Client, GaveUp, Lost, Refused, read_answer
from tests.chaos.event_stream import note, read_events
from tests.chaos.history import Sight, Story, Stream

CONNECTIONS = 100  # for one stream; then the reader gives up
BOUND_S = 90.0
HANGS_UP = 0.3  # the share of connections that the reader itself ends early
HANGS_UP_AFTER = (1, 4, 16)  # events


class StreamReader:
    def __init__(self, client: Client, random: Random) -> None:
        self._client = client
        self._random = random

    async def begin(self, story: Story, call: Call) -> Stream | Answer:
        """The first connection that tells a job, or the answer that is no stream.

        Raises Lost where nobody says whether there is a job.
        """
        for _ in range(CONNECTIONS):
            try:
                begun = await self._read(story, call)
            except Refused:
                await asyncio.sleep(PAUSE_S)
            except Lost:
                if not call.is_repeatable:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                if isinstance(begun, Stream) or not begun.is_put_off:
                    return begun
                await asyncio.sleep(begun.retry_after_s)
        raise GaveUp("no stream begins")

    async def resume(self, story: Story, job_id: str, after: int | None = None) -> None:
        """Read on after the event with this id, at any replica, up to the end."""
        for _ in range(CONNECTIONS):
            headers = {} if after is None else {"Last-Event-ID": str(after)}
            call = Call("GET", f"/jobs/{job_id}/events", headers=headers, bound_s=BOUND_S)
            with suppress(Lost, Refused):
                told = await self._read(story, call, after, self._draw_patience())
                if isinstance(told, Answer):
                    await asyncio.sleep(told.retry_after_s)
                    continue
                if told.end_index is not None:
                    return
                after = told.last_index
            await asyncio.sleep(PAUSE_S)
        raise GaveUp(f"the events of job {job_id} do not end")

    def _draw_patience(self) -> int | None:
        """After how many events the reader hangs up; None: not at all."""
        hangs_up = self._random.random() < HANGS_UP
        return self._random.choice(HANGS_UP_AFTER) if hangs_up else None

    async def _read(
        self, story: Story, call: Call, after: int | None = None, patience: int | None = None
    ) -> Stream | Answer:
        """One connection, to its end; raises Refused, and Lost if it told no job."""
        stream, began = None, time.monotonic()
        try:
            async with self._client.opened(story, call) as response:
                if response.status_code != 200:
                    return await read_answer(response, began)
                job_id = job_of(call, response.headers["Location"])
                stream = Stream(job_id, str(call), after)
                story.streams.append(stream)
                async for event in read_events(response):
                    if (end := note(stream, event)) is not None:
                        see_end(story, stream, end)
                    if patience is not None and len(stream.pieces) >= patience:
                        break
        except Lost:
            if stream is None:
                raise
        return stream


def job_of(call: Call, location: str) -> str:
    """A resumed stream's job is in its path, a new one's in the Location header."""
    path = call.path if call.path.startswith("/jobs/") else location
    return path.split("/")[2]


def see_end(story: Story, stream: Stream, end: dict[str, object]) -> None:
    """The terminal event: the 200 body and a status."""
    status = JobStatus(str(end["status"]))
    result = {k: v for k, v in end.items() if k != "status"} if "Result" in end else None
    now = time.monotonic()
    story.sights.append(Sight(stream.job_id, status, now, now, stream.via, result))
