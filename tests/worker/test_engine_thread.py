"""The bridge between engine thread and event loop, with an engine that has no model."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from tests.fakes import FakeRunner, fake_engine
from tests.worker.fake_engine import CRASHING, FAILING, FakeEngine
from worker.engine import Request, SamplingParams
from worker.engine.scheduling.step_plan import StepPlan
from worker.engine_thread import EngineThread
from worker.generation import Generation

WAIT_S = 30.0


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(total_kv_tokens=100)


@pytest.fixture
async def runtime(engine: FakeEngine) -> EngineThread:
    return EngineThread(engine)


@pytest.fixture(autouse=True)
def started(runtime: EngineThread, engine: FakeEngine) -> Iterator[None]:
    runtime.start()
    yield
    engine.gate.set()
    runtime.stop()


def request(request_id: str, *, tokens: int = 3, first: int = 1, n: int = 1) -> Request:
    params = SamplingParams(max_new_tokens=tokens, num_return_sequences=n)
    return Request(request_id=request_id, prompt_token_ids=[first, 2], params=params)


async def run(runtime: EngineThread, made: Request) -> Generation:
    generation = Generation(made.params.num_return_sequences, asyncio.Event())
    runtime.submit(made, generation)
    await ended(generation)
    return generation


async def eventually(holds: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, "it never came about"
        await asyncio.sleep(0.001)


async def ended(generation: Generation) -> None:
    await eventually(lambda: generation.is_done)


async def test_a_request_yields_its_tokens_in_order(runtime: EngineThread) -> None:
    generation = await run(runtime, request("a", tokens=3))
    assert generation.sequences[0].token_ids == [1, 2, 3]
    assert "".join(generation.sequences[0].texts) == "abc"


async def test_requests_that_come_together_share_steps(
    runtime: EngineThread, engine: FakeEngine
) -> None:
    engine.gate.clear()
    generations = [Generation(2, asyncio.Event()) for _ in range(4)]
    for index, generation in enumerate(generations):
        runtime.submit(request(f"r{index}", n=2), generation)
    engine.gate.set()
    for generation in generations:
        await ended(generation)
        assert generation.batch is not None
        assert generation.batch.max_rows == 8 or generation is generations[0]
        assert 2 <= generation.batch.mean_rows <= 8


async def test_a_refused_request_fails_as_the_callers_fault(runtime: EngineThread) -> None:
    made = Request(request_id="a", prompt_token_ids=[1] * 101, params=SamplingParams())
    generation = await run(runtime, made)
    assert generation.error is not None
    assert (generation.error.status_code, generation.batch) == (400, None)
    assert "too long" in generation.error.message


async def test_a_request_that_fails_does_not_take_others_along(runtime: EngineThread) -> None:
    failing, other = await asyncio.gather(
        run(runtime, request("bad", first=FAILING)), run(runtime, request("good"))
    )
    assert failing.error is not None and failing.error.status_code == 500
    assert other.error is None and other.num_tokens == 3


async def test_a_failure_counts_as_no_token(runtime: EngineThread) -> None:
    await run(runtime, request("bad", first=FAILING))
    await run(runtime, request("good", tokens=3))
    assert runtime.stats.num_tokens == 3


async def test_an_aborted_request_makes_no_more_tokens(
    runtime: EngineThread, engine: FakeEngine
) -> None:
    generation = Generation(1, asyncio.Event())
    engine.gate.clear()
    runtime.submit(request("a", tokens=1000), generation)
    runtime.abort("a")
    engine.gate.set()
    await run(runtime, request("b"))
    assert engine.aborted == ["a"]
    assert not generation.is_done


async def test_a_long_step_shows_its_age(runtime: EngineThread, engine: FakeEngine) -> None:
    assert runtime.step_age_s == 0.0
    engine.gate.clear()
    generation = Generation(1, asyncio.Event())
    runtime.submit(request("a"), generation)
    await eventually(lambda: runtime.step_age_s > 0.01)
    engine.gate.set()
    await ended(generation)


async def test_a_crash_of_the_engine_is_noticed_and_ends_no_request(
    runtime: EngineThread,
) -> None:
    generation = Generation(1, asyncio.Event())
    runtime.submit(request("a", first=CRASHING), generation)
    async with asyncio.timeout(WAIT_S):
        await runtime.failed.wait()
    assert not generation.is_done  # another worker will run it


async def test_stats_follow_the_engine(runtime: EngineThread) -> None:
    await run(runtime, request("a", tokens=5, n=2))
    assert (runtime.stats.running, runtime.stats.num_tokens) == (0, 10)


async def test_stats_tell_of_an_abort_that_leaves_nothing_to_do(runtime: EngineThread) -> None:
    runtime.submit(request("a", tokens=10**9), Generation(1, asyncio.Event()))
    await eventually(lambda: runtime.stats.running == 1)
    runtime.abort("a")
    await eventually(lambda: (runtime.stats.running, runtime.stats.used_kv_tokens) == (0, 0))


async def test_an_aborted_request_is_in_no_later_step_and_its_blocks_are_free() -> None:
    """With the real engine; a step that had begun may still end."""
    runner = FakeRunner(num_blocks=1000)
    runtime = EngineThread(fake_engine(runner))
    runtime.start()
    try:
        for name in ("stays", "goes"):
            runtime.submit(request(name, tokens=1900), Generation(1, asyncio.Event()))
        await eventually(lambda: runtime.stats.running == 2)
        runtime.abort("goes")
        num_begun = len(runner.plans) + 1
        await eventually(lambda: len(runner.plans) > num_begun + 5)
        assert names_in(runner.plans[num_begun:]) == {"stays"}
        runtime.abort("stays")
        await eventually(lambda: runtime.stats.used_kv_tokens == 0)
    finally:
        runtime.stop()


def names_in(plans: list[StepPlan]) -> set[str]:
    return {chunk.sequence.request.request_id for plan in plans for chunk in plan.chunks}


async def test_an_engine_whose_thread_is_idle_can_fail_from_another_thread(
    runtime: EngineThread,
) -> None:
    await asyncio.to_thread(runtime.fail, "part 1 of 2 failed")
    async with asyncio.timeout(WAIT_S):
        await runtime.failed.wait()


async def test_the_end_of_a_stopped_engines_processes_is_no_failure(
    runtime: EngineThread,
) -> None:
    """Processes of other parts end with the worker; its log must not call that an error."""
    runtime.stop()
    with capture_logs() as logs:
        runtime.fail("its processes were stopped")
    await asyncio.sleep(0)
    assert not logs and not runtime.failed.is_set()
