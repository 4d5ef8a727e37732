"""A run of a job that was made from an ended one: its adapter's version, and its comparison."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from shared.origin import ModelRun, ReplayedRun
from shared.request.prompt import PromptEncoder
from tests.echo_worker import letter_tokenizer
from tests.factories import make_card, make_job
from tests.worker.fake_engine import FakeEngine
from tests.worker.jobs.test_task import RecordingWriter, activate, failed, finished
from worker.engine_thread import EngineThread
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
