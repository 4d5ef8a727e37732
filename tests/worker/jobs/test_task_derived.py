"""A run of a job that was made from an ended one: its adapter's version, and its comparison."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from fakeredis import FakeAsyncRedis

from shared.origin import ModelRun, ReplayedRun
from shared.protocol import Delta
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.token_log import TokenLog
from shared.registry.worker_registry import Registry
from shared.request.prompt import PromptEncoder
from tests.echo_worker import letter_tokenizer
from tests.factories import make_card, make_job
from tests.worker.fake_engine import FakeEngine
from tests.worker.jobs.test_task import RecordingWriter, activate, failed, finished
from worker.engine_thread import EngineThread
from worker.jobs.active_job import ActiveJob
from worker.jobs.job_follower import JobFollower
from worker.jobs.task import ChatTask


@contextmanager
def second_version(name: str | None) -> Iterator[str | None]:
    yield name and f"{name}@2"


@pytest.fixture
async def task() -> AsyncIterator[ChatTask]:
    encoder = PromptEncoder(make_card(), letter_tokenizer().to_str().encode())
    engine_thread = EngineThread(FakeEngine())
    engine_thread.start()
    yield ChatTask(engine_thread, encoder, "card", RecordingWriter(), second_version)
    engine_thread.stop()


@pytest.mark.parametrize(
    ("old", "index", "token_ids"),
    [
        ([1, 2, 3], None, ()),
        ([1, 4, 3], 1, (4, 2)),
        ([1, 2], 2, (None, 3)),
        ([1, 2, 3, 4], 3, (4, None)),
    ],
)
async def test_a_replay_names_the_first_other_token(
    task: ChatTask, old: list[int], index: int | None, token_ids: tuple[int | None, ...]
) -> None:
    source = ModelRun(worker="w0", model="earlier", card_hash="other")
    job = make_job(max_new_tokens=3, replay=ReplayedRun(token_ids=[old], run=source))
    outcome = await finished(task, job)
    assert outcome.run == ModelRun(worker="w1", model=make_card().name, card_hash="card")
    verdict = outcome.replay
    assert verdict is not None
    assert (verdict.source, verdict.replay) == (source, outcome.run)
    assert verdict.identical is (index is None)
    if (first := verdict.first_difference) is not None:
        assert (first.sequence, first.index) == (0, index)
        assert (first.token_id, first.replayed_token_id) == token_ids


async def test_tokens_of_another_version_of_the_adapter_are_refused(task: ChatTask) -> None:
    job = make_job(max_new_tokens=3, adapter="ode", adapter_version="ode@1")
    outcome = await failed(task, activate(job))
    assert (outcome.error.status_code, outcome.error.field) == (409, "adapter")
    same = make_job(max_new_tokens=3, adapter="ode", adapter_version="ode@2")
    run = (await finished(task, same)).run
    assert run is not None
    assert run.adapter == "ode@2"


class OtherRun(JobFollower):
    """The token log of the other job, whose sequences ended one after the other."""

    def __init__(self) -> None:
        redis = FakeAsyncRedis()
        keys = Keys()
        super().__init__(JobQueue(redis, keys), TokenLog(redis, keys), Registry(redis, keys), "")

    async def deltas(
        self, active: ActiveJob, adapter: str | None, start: int
    ) -> AsyncIterator[list[Delta]]:
        yield [delta(sequence, token) for sequence in range(2) for token in (1, 2, 3)][start:]


def delta(sequence: int, token_id: int) -> Delta:
    text, ends = " abc"[token_id], token_id == 3
    return Delta(
        sequence=sequence,
        text=text,
        token_ids=[token_id],
        finish_reason="length" if ends else None,
    )


@pytest.mark.parametrize("earlier", [[], [delta(0, 1), delta(1, 1), delta(0, 2)]])
async def test_a_later_attempt_takes_no_tokens_in_the_order_of_another_run(
    earlier: list[Delta],
) -> None:
    encoder = PromptEncoder(make_card(), letter_tokenizer().to_str().encode())
    engine_thread, writer = EngineThread(FakeEngine()), RecordingWriter()
    writer.earlier = earlier
    task = ChatTask(engine_thread, encoder, "card", writer, follower=OtherRun())
    engine_thread.start()
    kwargs = {"num_return_sequences": 2}
    job = make_job(max_new_tokens=3, generate_kwargs=kwargs, stream=True, joined_to="other")
    outcome = await finished(task, job)
    assert [sequence.text for sequence in outcome.result.sequences] == ["abc", "abc"]
    engine_thread.stop()
