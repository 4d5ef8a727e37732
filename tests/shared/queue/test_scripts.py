"""Scripts with a deadline: Redis refuses a command that arrives after it."""

from typing import Any

import pytest

from shared.queue.scripts import CLOCK_STALE_S, Script, ScriptArg, Scripts
from tests.factories import make_job
from tests.shared.drained import Service


async def test_a_job_that_reaches_redis_after_its_deadline_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.submit()
    run = Scripts.run

    async def run_late(self: Scripts, script: Script, *args: ScriptArg) -> Any:
        service.clock.now_s += 1.0  # on its way
        return await run(self, script, *args)

    monkeypatch.setattr(Scripts, "run", run_late)
    late = make_job()
    with pytest.raises(TimeoutError, match="too late"):
        await service.queue.enqueue(late, reply_to=None, max_queued=100, within_s=0.05)
    monkeypatch.setattr(Scripts, "run", run)
    assert await service.queue.record(late.id) is None
    assert (await service.queue.depth()).waiting == 1


async def test_a_jump_of_the_clock_of_redis_refuses_no_job(service: Service) -> None:
    await service.submit()
    service.clock.now_s += 2 * CLOCK_STALE_S
    job = make_job()
    await service.queue.enqueue(job, reply_to=None, max_queued=100, within_s=1)
    assert (await service.queue.depth()).waiting == 2


async def test_a_command_that_is_repeated_late_gets_its_first_reply(service: Service) -> None:
    job = make_job()
    await service.queue.enqueue(job, reply_to=None, max_queued=100, within_s=1)
    service.clock.now_s += 2 * CLOCK_STALE_S
    again = await service.queue.enqueue(job, reply_to=None, max_queued=100, within_s=1)
    assert again.job_id == job.id
    assert (await service.queue.depth()).waiting == 1
