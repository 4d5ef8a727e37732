"""Scripts with a deadline: Redis refuses a command that arrives after it."""

from typing import Any

import pytest

from shared.queue.scripts import CLOCK_STALE_S, Script, ScriptArg, Scripts
from tests.factories import make_job
from tests.shared.queue.harness import QueueHarness


async def test_a_job_that_reaches_redis_after_its_deadline_is_refused(
    harness: QueueHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.submit()
    run = Scripts.run

    async def run_late(self: Scripts, script: Script, *args: ScriptArg) -> Any:
        harness.clock.now_s += 1.0  # on its way
        return await run(self, script, *args)

    monkeypatch.setattr(Scripts, "run", run_late)
    late = make_job()
    with pytest.raises(TimeoutError, match="too late"):
        await harness.queue.enqueue(late, reply_to=None, max_queued=100, within_s=0.05)
    monkeypatch.setattr(Scripts, "run", run)
    assert await harness.queue.record(late.id) is None
    assert (await harness.queue.depth()).waiting == 1


async def test_a_jump_of_the_clock_of_redis_refuses_no_job(harness: QueueHarness) -> None:
    await harness.submit()
    harness.clock.now_s += 2 * CLOCK_STALE_S
    job = make_job()
    await harness.queue.enqueue(job, reply_to=None, max_queued=100, within_s=1)
    assert (await harness.queue.depth()).waiting == 2


async def test_a_command_that_is_repeated_late_gets_its_first_reply(harness: QueueHarness) -> None:
    job = make_job()
    await harness.queue.enqueue(job, reply_to=None, max_queued=100, within_s=1)
    harness.clock.now_s += 2 * CLOCK_STALE_S
    again = await harness.queue.enqueue(job, reply_to=None, max_queued=100, within_s=1)
    assert again.job_id == job.id
    assert (await harness.queue.depth()).waiting == 1
