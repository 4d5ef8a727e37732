"""How a chat job runs and ends, with an engine that has no model."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from fakeredis import FakeAsyncRedis

from shared.protocol import ChatJob, Delta, Failed, JobStatus, Message, Succeeded
from shared.queue.claims import ClaimedJob
from shared.queue.keys import Keys
from shared.queue.token_log import TokenLog
from shared.request.prompt import PromptEncoder
from tests.echo_worker import letter_tokenizer
from tests.factories import make_card, make_job
from tests.worker.fake_engine import BANNING, FAILING, OFF_GRAMMAR, FakeEngine
from tests.worker.jobs.workers import eventually
from worker.engine_thread import EngineThread
from worker.jobs.active_job import ActiveJob
from worker.jobs.capacity import Capacity
from worker.jobs.task import ChatTask
from worker.jobs.token_log_writer import JobTokens, TokenLogWriter

NOW_MS = 1_000_000
WAIT_S = 30.0


class RecordingWriter(TokenLogWriter):
    """Records appended deltas instead of writing them; `earlier` stands for a log's content."""

    def __init__(self) -> None:
        super().__init__(TokenLog(FakeAsyncRedis(), Keys()), "w1")
        self.earlier: list[Delta] = []
        self.deltas: list[Delta] = []

    @asynccontextmanager
    async def open(self, active: ActiveJob) -> AsyncIterator[JobTokens]:
        yield RecordingTokens(active, self.earlier, self.deltas)


class RecordingTokens(JobTokens):
    def __init__(self, active: ActiveJob, earlier: list[Delta], deltas: list[Delta]) -> None:
        super().__init__(active, earlier, lambda _: None)
        self._deltas = deltas

    def append(self, delta: Delta) -> None:
        self._deltas.append(delta)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def writer() -> RecordingWriter:
    return RecordingWriter()


@pytest.fixture
async def engine_thread(engine: FakeEngine) -> EngineThread:
    return EngineThread(engine)


@pytest.fixture
def task(
    engine_thread: EngineThread, engine: FakeEngine, writer: RecordingWriter
) -> Iterator[ChatTask]:
    encoder = PromptEncoder(make_card(), letter_tokenizer().to_str().encode())
    engine_thread.start()
    yield ChatTask(engine_thread, encoder, "card", writer)
    engine.gate.set()
    engine_thread.stop()


def activate(job: ChatJob, *, time_left_s: float = WAIT_S) -> ActiveJob:
    claimed = ClaimedJob(
        job=job,
        worker_id="w1",
        fencing_token=NOW_MS,
        previous_fencing_token=0,
        attempts=0,
        time_left_s=time_left_s,
        created_ms=NOW_MS - 50,
        started_ms=NOW_MS,
    )
    return Capacity(rows=8, kv_tokens=1000, max_attempts=3).to_active_job(claimed)


async def finished(task: ChatTask, job: ChatJob) -> Succeeded:
    async with asyncio.timeout(WAIT_S):
        outcome = await task(activate(job))
    assert isinstance(outcome, Succeeded), outcome
    return outcome


async def failed(task: ChatTask, active: ActiveJob) -> Failed:
    async with asyncio.timeout(WAIT_S):
        outcome = await task(active)
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


async def test_the_result_joins_prompt_and_text_of_each_sequence(task: ChatTask) -> None:
    job = make_job(generate_kwargs={"num_return_sequences": 2}, max_new_tokens=2)
    assert (await finished(task, job)).result.result == "HelloabHelloab"


async def test_the_result_omits_the_prompt_without_return_full_text(task: ChatTask) -> None:
    job = make_job(max_new_tokens=2, return_full_text=False)
    assert (await finished(task, job)).result.result == "ab"


async def test_the_result_of_a_conversation_is_the_reply(task: ChatTask) -> None:
    job = make_job(messages=(Message(role="user", content="Hi"),), max_new_tokens=2)
    assert (await finished(task, job)).result.result == "ab"


async def test_the_result_omits_the_prefix(task: ChatTask) -> None:
    job = make_job(prompt="Hello", prefix="Once. ", max_new_tokens=2)
    assert (await finished(task, job)).result.result == "Helloab"


@pytest.mark.parametrize(
    "asked", [{"output_scores": True}, {"return_dict_in_generate": True}, {"top_logprobs": 0}]
)
async def test_scores_are_returned_only_on_request(
    task: ChatTask, asked: dict[str, object]
) -> None:
    plain = (await finished(task, make_job(max_new_tokens=2))).result.sequences[0]
    assert (plain.token_ids, plain.token_logprobs) == (None, None)
    job = make_job(max_new_tokens=2, generate_kwargs=asked)
    scored = (await finished(task, job)).result.sequences[0]
    assert (scored.token_ids, scored.token_logprobs) == ([1, 2], [-0.5, -0.5])


async def test_a_job_checked_against_another_model_card_is_checked_again(task: ChatTask) -> None:
    job = make_job(card_hash="other", token_ids=[1] * 60, max_new_tokens=60)
    outcome = await finished(task, job)  # five letters, and what the context leaves
    assert outcome.result.usage.prompt_tokens == 5


async def test_a_refused_job_fails_with_field_and_status(task: ChatTask) -> None:
    job = make_job(card_hash=None, generate_kwargs={"max_new_tokens": 500})
    outcome = await failed(task, activate(job))
    assert (outcome.error.status_code, outcome.error.field) == (
        400,
        "generate_kwargs.max_new_tokens",
    )
    outcome = await failed(task, activate(make_job(generate_kwargs={"trust_remote_code": True})))
    assert (outcome.error.status_code, outcome.error.field) == (
        422,
        "generate_kwargs.trust_remote_code",
    )


async def test_a_forced_token_that_is_suppressed_is_refused_with_its_field(task: ChatTask) -> None:
    for name, forced in (("forced_bos_token_id", 3), ("forced_eos_token_id", [3])):
        kwargs = {name: forced, "suppress_tokens": [3, 4]}
        outcome = await failed(task, activate(make_job(generate_kwargs=kwargs)))
        assert (outcome.error.status_code, outcome.error.field) == (422, f"generate_kwargs.{name}")


async def test_adapter_and_priority_of_a_job_are_passed_to_the_engine(
    task: ChatTask, engine: FakeEngine
) -> None:
    await finished(task, make_job(adapter="verse"))
    await finished(task, make_job(priority=-3))
    assert (engine.adapters, engine.priorities) == (["verse", None], [0, -3])


async def test_an_unknown_adapter_is_refused_with_its_field(task: ChatTask) -> None:
    outcome = await failed(task, activate(make_job(adapter="verse", card_hash="other")))
    assert (outcome.error.status_code, outcome.error.field) == (422, "adapter")
    assert outcome.error.message == "no adapter 'verse' with this model; there are: none"


async def test_a_request_that_the_engine_refuses_fails_with_status_400(task: ChatTask) -> None:
    outcome = await failed(task, activate(make_job(token_ids=[1] * 1001)))
    assert outcome.error.status_code == 400


async def test_a_request_that_fails_in_the_engine_fails_with_status_500(task: ChatTask) -> None:
    outcome = await failed(task, activate(make_job(token_ids=[FAILING])))
    assert (outcome.error.status_code, outcome.status) == (500, JobStatus.FAILED)


@pytest.mark.parametrize("token_id", [BANNING, OFF_GRAMMAR])
async def test_a_text_without_a_next_token_fails_with_422(task: ChatTask, token_id: int) -> None:
    outcome = await failed(task, activate(make_job(token_ids=[token_id])))
    field = "generate_kwargs.structured_outputs" if token_id == OFF_GRAMMAR else None
    assert (outcome.error.status_code, outcome.error.field) == (422, field)


async def test_a_streamed_job_logs_each_token(task: ChatTask, writer: RecordingWriter) -> None:
    outcome = await finished(task, make_job(max_new_tokens=3, stream=True))
    assert outcome.num_deltas == 3
    assert [(delta.sequence, delta.text, delta.token_ids) for delta in writer.deltas] == [
        (0, "a", [1]),
        (0, "b", [2]),
        (0, "c", [3]),
    ]
    assert [delta.finish_reason for delta in writer.deltas] == [None, None, "length"]


async def test_a_later_attempt_continues_from_the_log(
    task: ChatTask, writer: RecordingWriter
) -> None:
    kwargs = {"num_return_sequences": 2, "output_scores": True}
    job = make_job(max_new_tokens=3, stream=True, generate_kwargs=kwargs)
    whole = await finished(task, job)
    writer.earlier, writer.deltas = writer.deltas[:3], []
    resumed = await finished(task, job)
    assert resumed.result == whole.result
    assert [(delta.sequence, delta.token_ids) for delta in writer.deltas] == [
        (1, [2]),
        (0, [3]),
        (1, [3]),
    ]
    assert resumed.num_deltas == 6


async def test_a_later_attempt_with_a_complete_log_does_not_use_the_engine(
    task: ChatTask, writer: RecordingWriter, engine: FakeEngine
) -> None:
    job = make_job(max_new_tokens=3, stream=True)
    whole = await finished(task, job)
    engine.gate.clear()
    writer.earlier, writer.deltas = writer.deltas, []
    resumed = await finished(task, job)
    assert resumed.result == whole.result
    assert (resumed.batch.max_rows, writer.deltas) == (0, [])


async def test_a_streamed_beam_search_logs_no_token(
    task: ChatTask, writer: RecordingWriter
) -> None:
    job = make_job(generate_kwargs={"num_beams": 2}, max_new_tokens=3, stream=True)
    outcome = await finished(task, job)
    assert (outcome.result.result, outcome.num_deltas) == ("Helloabc", 0)
    assert writer.deltas == []


async def test_a_job_that_is_not_streamed_logs_no_token(
    task: ChatTask, writer: RecordingWriter
) -> None:
    assert (await finished(task, make_job())).num_deltas is None
    assert writer.deltas == []


async def test_cancelling_a_job_aborts_its_request(task: ChatTask, engine: FakeEngine) -> None:
    active = activate(make_job(max_new_tokens=10**9))
    running = asyncio.create_task(failed(task, active))
    await eventually(lambda: engine.has_work)
    active.cancel()
    outcome = await running
    assert (outcome.status, outcome.error.status_code) == (JobStatus.CANCELLED, 499)
    await finished(task, make_job())
    assert engine.aborted == [f"{active.job.id}:{active.fencing_token}"]


async def test_a_job_cancelled_before_its_start_does_not_use_the_engine(
    task: ChatTask, engine: FakeEngine
) -> None:
    engine.gate.clear()
    active = activate(make_job())
    active.cancel()
    assert (await failed(task, active)).status is JobStatus.CANCELLED


async def test_a_job_expires_at_its_deadline_before_and_during_its_run(task: ChatTask) -> None:
    for time_left_s in (0.0, 0.02):
        active = activate(make_job(max_new_tokens=10**9), time_left_s=time_left_s)
        outcome = await failed(task, active)
        assert (outcome.status, outcome.error.status_code) == (JobStatus.EXPIRED, 504)


async def test_cancelling_the_task_aborts_its_request(task: ChatTask, engine: FakeEngine) -> None:
    active = activate(make_job(max_new_tokens=10**9))
    running = asyncio.create_task(task(active))
    await eventually(lambda: engine.has_work)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await finished(task, make_job())
    assert engine.aborted == [f"{active.job.id}:{active.fencing_token}"]
