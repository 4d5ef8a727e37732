"""A chat job from lease to outcome, with an engine that has no model."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from fakeredis import FakeAsyncRedis

from shared.protocol import ChatJob, Delta, Failed, Finished, JobStatus, Message, Prompt
from shared.queue.claims import ClaimedJob
from shared.queue.keys import Keys
from shared.queue.token_log import TokenLog
from shared.request.prompt import PromptEncoder
from tests.factories import make_card, make_job
from tests.fakes_api import letter_tokenizer
from tests.worker.fake_engine import BANNING, FAILING, FakeEngine
from worker.engine_thread import EngineThread
from worker.jobs.active_job import ActiveJob
from worker.jobs.capacity import Capacity
from worker.jobs.job_log import JobLog
from worker.jobs.task import ChatTask
from worker.jobs.token_log_writer import Outbox

NOW_MS = 1_000_000
WAIT_S = 30.0


class CollectingOutbox(Outbox):
    """Keeps what was put; nothing is written. `earlier` is what it says was logged before."""

    def __init__(self) -> None:
        super().__init__(TokenLog(FakeAsyncRedis(), Keys()), "w1")
        self.earlier: list[Delta] = []
        self.deltas: list[Delta] = []

    @asynccontextmanager
    async def open(self, held: ActiveJob) -> AsyncIterator[JobLog]:
        yield JobLog(held, self.earlier)

    def put(self, job_log: JobLog, delta: Delta) -> None:
        self.deltas.append(delta)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def outbox() -> CollectingOutbox:
    return CollectingOutbox()


@pytest.fixture
async def runtime(engine: FakeEngine) -> EngineThread:
    return EngineThread(engine)


@pytest.fixture
def task(runtime: EngineThread, engine: FakeEngine, outbox: CollectingOutbox) -> Iterator[ChatTask]:
    encoder = PromptEncoder(make_card(), letter_tokenizer().to_str().encode())
    runtime.start()
    yield ChatTask(runtime, encoder, "card", outbox)
    engine.gate.set()
    runtime.stop()


def hold(job: ChatJob, *, time_left_s: float = WAIT_S) -> ActiveJob:
    claimed = ClaimedJob(
        job=job,
        worker_id="w1",
        fence=NOW_MS,
        earlier_fence=0,
        attempts=0,
        rows=job.cost_rows,
        tokens=job.cost_tokens,
        time_left_s=time_left_s,
        created_ms=NOW_MS - 50,
        started_ms=NOW_MS,
    )
    return Capacity(rows=8, tokens=1000, max_attempts=3).hold(claimed)


async def finished(task: ChatTask, job: ChatJob) -> Finished:
    async with asyncio.timeout(WAIT_S):
        outcome = await task(hold(job))
    assert isinstance(outcome, Finished), outcome
    return outcome


async def failed(task: ChatTask, held: ActiveJob) -> Failed:
    async with asyncio.timeout(WAIT_S):
        outcome = await task(held)
    assert isinstance(outcome, Failed), outcome
    return outcome


async def test_the_result_holds_text_usage_seed_and_batch(task: ChatTask) -> None:
    outcome = await finished(task, make_job(max_new_tokens=3, seed=7))
    assert outcome.result.result == "Helloabc"
    [sequence] = outcome.result.sequences
    assert (sequence.text, sequence.finish_reason, sequence.token_count) == ("abc", "length", 3)
    usage = outcome.result.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 3, 7)
    assert (outcome.result.seed, outcome.queue_ms, outcome.attempt) == (7, 50, 1)
    assert (outcome.batch.mean_rows, outcome.batch.max_rows) == (1.0, 1)


async def test_every_sequence_follows_the_prompt_with_nothing_between(task: ChatTask) -> None:
    job = make_job(generate_kwargs={"num_return_sequences": 2}, max_new_tokens=2)
    assert (await finished(task, job)).result.result == "HelloabHelloab"


async def test_the_prompt_is_left_out_when_not_wanted(task: ChatTask) -> None:
    job = make_job(max_new_tokens=2, return_full_text=False)
    assert (await finished(task, job)).result.result == "ab"


async def test_a_conversation_gets_the_reply_alone(task: ChatTask) -> None:
    prompt = Prompt(messages=(Message(role="user", content="Hi"),))
    job = make_job(prompt=prompt, max_new_tokens=2)
    assert (await finished(task, job)).result.result == "ab"


async def test_the_prefix_is_never_echoed(task: ChatTask) -> None:
    job = make_job(prompt=Prompt(text="Hello", prefix="Once. "), max_new_tokens=2)
    assert (await finished(task, job)).result.result == "Helloab"


@pytest.mark.parametrize(
    "asked", [{"output_scores": True}, {"return_dict_in_generate": True}, {"top_logprobs": 0}]
)
async def test_scores_come_only_when_asked_for(task: ChatTask, asked: dict[str, object]) -> None:
    plain = (await finished(task, make_job(max_new_tokens=2))).result.sequences[0]
    assert (plain.token_ids, plain.token_logprobs) == (None, None)
    job = make_job(max_new_tokens=2, generate_kwargs=asked)
    scored = (await finished(task, job)).result.sequences[0]
    assert (scored.token_ids, scored.token_logprobs) == ([1, 2], [-0.5, -0.5])


async def test_a_job_for_another_model_card_is_checked_again(task: ChatTask) -> None:
    job = make_job(card_hash="other", token_ids=[1] * 60, max_new_tokens=60)
    outcome = await finished(task, job)  # five letters, and what the context leaves
    assert outcome.result.usage.prompt_tokens == 5


async def test_what_the_checks_refuse_fails_with_field_and_status(task: ChatTask) -> None:
    job = make_job(card_hash=None, generate_kwargs={"max_new_tokens": 500})
    outcome = await failed(task, hold(job))
    assert (outcome.error.status_code, outcome.error.field) == (
        400,
        "generate_kwargs.max_new_tokens",
    )
    outcome = await failed(task, hold(make_job(generate_kwargs={"trust_remote_code": True})))
    assert (outcome.error.status_code, outcome.error.field) == (
        422,
        "generate_kwargs.trust_remote_code",
    )


async def test_a_forced_token_that_is_suppressed_is_refused_with_its_field(task: ChatTask) -> None:
    for name, forced in (("forced_bos_token_id", 3), ("forced_eos_token_id", [3])):
        kwargs = {name: forced, "suppress_tokens": [3, 4]}
        outcome = await failed(task, hold(make_job(generate_kwargs=kwargs)))
        assert (outcome.error.status_code, outcome.error.field) == (422, f"generate_kwargs.{name}")


async def test_an_adapter_reaches_the_engine_with_its_job(
    task: ChatTask, engine: FakeEngine
) -> None:
    await finished(task, make_job(adapter="verse"))
    await finished(task, make_job())
    assert engine.adapters == ["verse", None]


async def test_an_adapter_that_this_worker_lacks_is_refused_with_its_field(task: ChatTask) -> None:
    outcome = await failed(task, hold(make_job(adapter="verse", card_hash="other")))
    assert (outcome.error.status_code, outcome.error.field) == (422, "adapter")
    assert outcome.error.message == "no adapter 'verse' with this model; there are: none"


async def test_what_the_engine_refuses_is_the_callers_fault(task: ChatTask) -> None:
    outcome = await failed(task, hold(make_job(token_ids=[1] * 1001)))
    assert outcome.error.status_code == 400


async def test_what_fails_in_the_engine_is_not(task: ChatTask) -> None:
    outcome = await failed(task, hold(make_job(token_ids=[FAILING])))
    assert (outcome.error.status_code, outcome.status) == (500, JobStatus.FAILED)


async def test_parameters_that_leave_no_token_are_the_callers_fault(task: ChatTask) -> None:
    outcome = await failed(task, hold(make_job(token_ids=[BANNING])))
    assert (outcome.error.status_code, outcome.status) == (422, JobStatus.FAILED)


async def test_a_streamed_job_sends_each_token(task: ChatTask, outbox: CollectingOutbox) -> None:
    outcome = await finished(task, make_job(max_new_tokens=3, stream=True))
    assert outcome.num_deltas == 3
    assert [(delta.sequence, delta.text, delta.token_ids) for delta in outbox.deltas] == [
        (0, "a", [1]),
        (0, "b", [2]),
        (0, "c", [3]),
    ]
    assert [delta.finish_reason for delta in outbox.deltas] == [None, None, "length"]


async def test_a_job_that_was_begun_elsewhere_goes_on_from_its_log(
    task: ChatTask, outbox: CollectingOutbox
) -> None:
    kwargs = {"num_return_sequences": 2, "output_scores": True}
    job = make_job(max_new_tokens=3, stream=True, generate_kwargs=kwargs)
    whole = await finished(task, job)
    outbox.earlier, outbox.deltas = outbox.deltas[:3], []
    resumed = await finished(task, job)
    assert resumed.result == whole.result
    assert [(delta.sequence, delta.token_ids) for delta in outbox.deltas] == [
        (1, [2]),
        (0, [3]),
        (1, [3]),
    ]
    assert resumed.num_deltas == 6


async def test_a_job_whose_log_is_complete_needs_only_its_end(
    task: ChatTask, outbox: CollectingOutbox, engine: FakeEngine
) -> None:
    job = make_job(max_new_tokens=3, stream=True)
    whole = await finished(task, job)
    engine.gate.clear()
    outbox.earlier, outbox.deltas = outbox.deltas, []
    resumed = await finished(task, job)
    assert resumed.result == whole.result
    assert (resumed.batch.max_rows, outbox.deltas) == (0, [])


async def test_the_stream_of_a_beam_search_has_only_its_end(
    task: ChatTask, outbox: CollectingOutbox
) -> None:
    job = make_job(generate_kwargs={"num_beams": 2}, max_new_tokens=3, stream=True)
    outcome = await finished(task, job)
    assert (outcome.result.result, outcome.num_deltas) == ("Helloabc", 0)
    assert outbox.deltas == []


async def test_a_job_that_is_not_streamed_sends_none(
    task: ChatTask, outbox: CollectingOutbox
) -> None:
    assert (await finished(task, make_job())).num_deltas is None
    assert outbox.deltas == []


async def test_a_cancelled_job_stops_and_leaves_the_engine(
    task: ChatTask, engine: FakeEngine
) -> None:
    held = hold(make_job(max_new_tokens=10**9))
    running = asyncio.create_task(failed(task, held))
    await asyncio.sleep(0.01)
    held.cancel()
    outcome = await running
    assert (outcome.status, outcome.error.status_code) == (JobStatus.CANCELLED, 499)
    await finished(task, make_job())
    assert engine.aborted == [f"{held.job.id}:{held.fence}"]


async def test_a_job_cancelled_before_it_began_never_reaches_the_engine(
    task: ChatTask, engine: FakeEngine
) -> None:
    engine.gate.clear()
    held = hold(make_job())
    held.cancel()
    assert (await failed(task, held)).status is JobStatus.CANCELLED


async def test_a_deadline_stops_a_job_before_or_while_it_runs(task: ChatTask) -> None:
    for time_left_s in (0.0, 0.02):
        held = hold(make_job(max_new_tokens=10**9), time_left_s=time_left_s)
        outcome = await failed(task, held)
        assert (outcome.status, outcome.error.status_code) == (JobStatus.EXPIRED, 504)


async def test_a_task_that_is_cancelled_leaves_the_engine(
    task: ChatTask, engine: FakeEngine
) -> None:
    held = hold(make_job(max_new_tokens=10**9))
    running = asyncio.create_task(task(held))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await finished(task, make_job())
    assert engine.aborted == [f"{held.job.id}:{held.fence}"]


async def test_the_priority_of_a_job_is_that_of_its_request(
    task: ChatTask, engine: FakeEngine
) -> None:
    await finished(task, make_job(priority=-3))
    assert engine.priorities == [-3]
