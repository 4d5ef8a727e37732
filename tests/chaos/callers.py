"""How each kind of caller gets its text, from the first request to the end that it sees."""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from random import Random
from typing import Any

from shared.protocol import JobStatus
from tests.chaos.client import Answer, Call, Client, GaveUp, Lost
from tests.chaos.history import History, Sight, Story
from tests.chaos.plans import Kind, Plan, Whim
from tests.chaos.stream_reader import StreamReader

SYNC_TIMEOUT_S = 60.0  # the api's setting in a run
CALL_BOUND_S = SYNC_TIMEOUT_S + 30.0
POLL_S = 0.25
WAIT_S = 5.0
POLITE_WAITS = 40  # looks at one job before a caller gives up


class Callers:
    """Runs plans; whatever a caller sees is in the history when `run` returns."""

    def __init__(self, client: Client, history: History, random: Random) -> None:
        self._client = client
        self._history = history
        self._random = random
        self._reader = StreamReader(client, random)

    async def run(self, plan: Plan) -> Story:
        story = self._history.open(plan)
        try:
            await self._behave(story)
        except Lost:
            story.is_lost = True
        except GaveUp as error:
            story.failure = str(error)
        story.ended = time.monotonic()
        return story

    async def look_again(self, story: Story, wait_s: float = 0) -> None:
        """When all is over, or will be in `wait_s`: what became of the jobs it knew of."""
        for job_id in story.job_ids:
            await self._look(story, job_id, wait_s)

    async def _behave(self, story: Story) -> None:
        plan = story.plan
        match plan.whim:
            case Whim.LEAVE:
                await self._leave(story)
            case Whim.CANCEL:
                await self._obtain_and_cancel(story)
            case Whim.RETRY:
                await self._obtain_and_cancel(story)
                await self._retry(story)
            case Whim.REPEAT:
                await _both(self._obtain(story), self._repeat(story))
            case Whim.CONFLICT:
                await self._obtain(story)
                await self._conflict(story)
            case _:
                await self._obtain(story)

    async def _obtain(self, story: Story) -> None:
        match story.plan.kind:
            case Kind.SYNC:
                await self._settle(story, await self._post(story, "/chat"))
            case Kind.PREFER_WAIT:
                answer = await self._post(story, "/chat", {"Prefer": "wait=2"})
                await self._settle(story, answer)
            case Kind.STREAM:
                await self._stream(story)
            case Kind.BAD:
                await self._send_bad(story)
            case kind:
                await self._settle(story, await self._post(story, "/jobs"), follow_by=kind)

    # -- the first request ---------------------------------------------------------------------

    async def _post(self, story: Story, path: str, headers: dict[str, str] | None = None) -> Answer:
        plan = story.plan
        call = Call.post(path, plan.body, {**plan.headers, **(headers or {})}, CALL_BOUND_S)
        return await self._client.call(story, call)

    async def _send_bad(self, story: Story) -> None:
        bad = story.plan.bad_ask
        headers = {"Content-Type": "application/json"}
        await self._client.call(story, Call("POST", bad.path, bad.content, headers))

    async def _settle(
        self, story: Story, answer: Answer, *, follow_by: Kind = Kind.LONG_POLL
    ) -> None:
        """From the answer to the first request to the job's end."""
        if answer.job_id is None:
            return  # refused: there is no job
        if answer.status == 200:
            see(story, answer, JobStatus.SUCCEEDED, "the call", answer.body)
            return
        if answer.status == 202:
            see_record(story, answer, "the 202")
        await self._follow(story, answer.job_id, follow_by)

    # -- following a job -----------------------------------------------------------------------

    async def _follow(self, story: Story, job_id: str, kind: Kind) -> None:
        if kind is Kind.EVENTS:
            await self._reader.resume(story, job_id)
        for _ in range(POLITE_WAITS):
            record = await self._look(story, job_id, 0 if kind is Kind.POLL else WAIT_S)
            if record is None or record.is_terminal:
                return
            if kind is Kind.POLL:
                await asyncio.sleep(POLL_S)
                kind = self._random.choice((Kind.POLL, Kind.POLL, Kind.LONG_POLL))
        raise GaveUp(f"job {job_id} does not end")

    async def _look(self, story: Story, job_id: str, wait_s: float) -> JobStatus | None:
        query = f"?wait={wait_s:g}" if wait_s else ""
        call = Call.get(f"/jobs/{job_id}{query}", wait_s + CALL_BOUND_S)
        answer = await self._client.call(story, call)
        return see_record(story, answer, str(call))

    async def _stream(self, story: Story) -> None:
        plan = story.plan
        call = Call.post("/chat", plan.body, plan.headers, CALL_BOUND_S)
        begun = await self._reader.begin(story, call)
        if isinstance(begun, Answer):
            await self._settle(story, begun)
        elif begun.end_index is None:
            await self._reader.resume(story, begun.job_id, begun.last_index)

    # -- whims ---------------------------------------------------------------------------------

    async def _leave(self, story: Story) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(story.plan.whim_after_s):
                await self._obtain(story)
        story.left = time.monotonic()

    async def _obtain_and_cancel(self, story: Story) -> None:
        obtaining = asyncio.create_task(self._obtain(story))
        await _both(obtaining, self._cancel(story, obtaining))

    async def _cancel(self, story: Story, obtaining: asyncio.Task[None]) -> None:
        """As soon as the whim has come and the job has a name."""
        await asyncio.sleep(story.plan.whim_after_s)
        await self._named(story, obtaining)
        if story.job_ids:
            call = Call("DELETE", f"/jobs/{story.job_ids[0]}")
            see_record(story, await self._client.call(story, call), "DELETE")

    async def _retry(self, story: Story) -> None:
        """Retry the job, unless it succeeded before the cancellation."""
        if story.end is None or story.end.status is not JobStatus.CANCELLED:
            return
        call = Call("POST", f"/jobs/{story.end.job_id}/retry")
        answer = await self._client.call(story, call)
        if see_record(story, answer, str(call)) is not None and answer.job_id is not None:
            story.retry_id = answer.job_id
            await self._follow(story, answer.job_id, story.plan.kind)

    async def _named(self, story: Story, obtaining: asyncio.Task[None]) -> None:
        """Wait until the caller knows its job, or will never know one."""
        while not (story.job_ids or obtaining.done()):
            await asyncio.wait([obtaining], timeout=0.02)

    async def _repeat(self, story: Story) -> None:
        await asyncio.sleep(story.plan.whim_after_s)
        await self._settle(story, await self._post(story, "/jobs"))

    async def _conflict(self, story: Story) -> None:
        body = {**story.plan.other_ask.body, "ttl_s": story.plan.ttl_s}
        await self._client.call(story, Call.post("/chat", body, story.plan.headers, CALL_BOUND_S))


def see(
    story: Story, answer: Answer, status: JobStatus, via: str, result: dict[str, Any] | None
) -> None:
    assert answer.job_id is not None
    sight = Sight(answer.job_id, status, answer.began, answer.ended, via, result)
    story.sights.append(sight)


def see_record(story: Story, answer: Answer, via: str) -> JobStatus | None:
    """Note what a job record says; None for an answer that is none."""
    if answer.status not in (200, 202):
        return None
    status = JobStatus(answer.body["status"])
    see(story, answer, status, via, answer.body.get("result"))
    return status


async def _both(*parts: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
    """Side by side; the other is waited for even if one is lost."""
    ends = await asyncio.gather(*parts, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
