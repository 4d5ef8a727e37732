"""The engine's thread and its connection to the event loop, with an engine without a model."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from tests.fakes import FakeRunner, engine_on_fake_runner
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
async def engine_thread(engine: FakeEngine) -> EngineThread:
    return EngineThread(engine)


@pytest.fixture(autouse=True)
def started(engine_thread: EngineThread, engine: FakeEngine) -> Iterator[None]:
    engine_thread.start()
    yield
    engine.gate.set()
    engine_thread.stop()


def request(request_id: str, *, tokens: int = 3, first: int = 1, n: int = 1) -> Request:
    params = SamplingParams(max_new_tokens=tokens, num_return_sequences=n)
    return Request(request_id=request_id, prompt_token_ids=[first, 2], params=params)


async def run(engine_thread: EngineThread, made: Request) -> Generation:
    generation = Generation(made.params.num_return_sequences, asyncio.Event())
    engine_thread.submit(made, generation)
    await ended(generation)
    return generation


async def eventually(holds: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, "the condition never held"
        await asyncio.sleep(0.001)


async def ended(generation: Generation) -> None:
    await eventually(lambda: generation.is_done)


async def test_a_request_yields_its_tokens_in_order(engine_thread: EngineThread) -> None:
    generation = await run(engine_thread, request("a", tokens=3))
    assert [output.token_id for output in generation.sequences[0]] == [1, 2, 3]
    assert "".join(output.text for output in generation.sequences[0]) == "abc"


async def test_requests_that_arrive_together_share_steps(
    engine_thread: EngineThread, engine: FakeEngine
) -> None:
    engine.gate.clear()
    generations = [Generation(2, asyncio.Event()) for _ in range(4)]
    for index, generation in enumerate(generations):
        engine_thread.submit(request(f"r{index}", n=2), generation)
    engine.gate.set()
    for generation in generations:
        await ended(generation)
        assert generation.batch is not None
        assert generation.batch.max_rows == 8 or generation is generations[0]
        assert 2 <= generation.batch.mean_rows <= 8


async def test_a_request_that_the_engine_refuses_fails_with_status_400(
    engine_thread: EngineThread,
) -> None:
    made = Request(request_id="a", prompt_token_ids=[1] * 101, params=SamplingParams())
    generation = await run(engine_thread, made)
    assert generation.error is not None
    assert (generation.error.status_code, generation.batch) == (400, None)
    assert "too long" in generation.error.message


async def test_a_failing_request_does_not_fail_others(engine_thread: EngineThread) -> None:
    failing, other = await asyncio.gather(
        run(engine_thread, request("bad", first=FAILING)), run(engine_thread, request("good"))
    )
    assert failing.error is not None and failing.error.status_code == 500
    assert other.error is None and other.num_tokens == 3


async def test_a_failure_is_not_counted_as_a_token(engine_thread: EngineThread) -> None:
    await run(engine_thread, request("bad", first=FAILING))
    await run(engine_thread, request("good", tokens=3))
    assert engine_thread.stats.num_tokens == 3


async def test_an_aborted_request_generates_no_more_tokens(
    engine_thread: EngineThread, engine: FakeEngine
) -> None:
    generation = Generation(1, asyncio.Event())
    engine.gate.clear()
    engine_thread.submit(request("a", tokens=1000), generation)
    engine_thread.abort("a")
    engine.gate.set()
    await run(engine_thread, request("b"))
    assert engine.aborted == ["a"]
    assert not generation.is_done


async def test_the_age_of_a_step_grows_while_it_runs(
    engine_thread: EngineThread, engine: FakeEngine
) -> None:
    assert engine_thread.step_age_s == 0.0
    engine.gate.clear()
    generation = Generation(1, asyncio.Event())
    engine_thread.submit(request("a"), generation)
    await eventually(lambda: engine_thread.step_age_s > 0.01)
    engine.gate.set()
    await ended(generation)


async def test_a_crash_of_the_engine_sets_failed_and_leaves_requests_unfinished(
    engine_thread: EngineThread,
) -> None:
    generation = Generation(1, asyncio.Event())
    engine_thread.submit(request("a", first=CRASHING), generation)
    async with asyncio.timeout(WAIT_S):
        await engine_thread.failed.wait()
    assert not generation.is_done  # another worker runs it


async def test_stats_follow_the_engine(engine_thread: EngineThread) -> None:
    await run(engine_thread, request("a", tokens=5, n=2))
    assert (engine_thread.stats.running, engine_thread.stats.num_tokens) == (0, 10)


async def test_stats_reflect_an_abort_after_which_the_engine_is_idle(
    engine_thread: EngineThread,
) -> None:
    engine_thread.submit(request("a", tokens=10**9), Generation(1, asyncio.Event()))
    await eventually(lambda: engine_thread.stats.running == 1)
    engine_thread.abort("a")
    await eventually(
        lambda: (engine_thread.stats.running, engine_thread.stats.used_kv_tokens) == (0, 0)
    )


async def test_an_aborted_request_is_in_no_later_step_and_its_blocks_are_free() -> None:
    """Uses the real engine; a step that is under way may still finish."""
    runner = FakeRunner(num_blocks=1000)
    engine_thread = EngineThread(engine_on_fake_runner(runner))
    engine_thread.start()
    try:
        for name in ("stays", "goes"):
            engine_thread.submit(request(name, tokens=1900), Generation(1, asyncio.Event()))
        await eventually(lambda: engine_thread.stats.running == 2)
        engine_thread.abort("goes")
        num_begun = len(runner.plans) + 1
        await eventually(lambda: len(runner.plans) > num_begun + 5)
        assert names_in(runner.plans[num_begun:]) == {"stays"}
        engine_thread.abort("stays")
        await eventually(lambda: engine_thread.stats.used_kv_tokens == 0)
    finally:
        engine_thread.stop()


def names_in(plans: list[StepPlan]) -> set[str]:
    return {chunk.sequence.request.request_id for plan in plans for chunk in plan.chunks}


async def test_another_thread_can_fail_an_idle_engine(
    engine_thread: EngineThread,
) -> None:
    await asyncio.to_thread(engine_thread.fail, "part 1 of 2 failed")
    async with asyncio.timeout(WAIT_S):
        await engine_thread.failed.wait()
    assert engine_thread.failure == "the engine failed: part 1 of 2 failed"


async def test_the_exit_of_engine_processes_after_stop_is_no_failure(
    engine_thread: EngineThread,
) -> None:
    engine_thread.stop()
    with capture_logs() as logs:
        engine_thread.fail("its processes were stopped")
    await asyncio.sleep(0)
    assert not logs and not engine_thread.failed.is_set()
