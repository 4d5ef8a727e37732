"""How a chat job ends whose grammar waits for the worker's checker."""

import subprocess
import threading
from typing import Any

import pytest

from shared.protocol import JobStatus
from shared.request.prompt import PromptEncoder
from tests.echo_worker import letter_tokenizer
from tests.factories import make_card, make_job
from tests.worker.fake_engine import FakeEngine
from tests.worker.jobs.test_task import WAIT_S, RecordingWriter, activate, failed
from worker.engine_thread import EngineThread
from worker.jobs.task import ChatTask


async def test_a_job_expires_while_its_grammar_waits_for_the_checker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_answer = threading.Event()

    def answer_late(*_: object, **__: object) -> str:
        may_answer.wait(WAIT_S)
        return "late"

    monkeypatch.setattr("shared.request.grammar_checker.GrammarChecker.to_grammar", answer_late)
    encoder = PromptEncoder(make_card(), letter_tokenizer().to_str().encode())
    task = ChatTask(EngineThread(FakeEngine()), encoder, "card", RecordingWriter())
    job = make_job(generate_kwargs={"structured_outputs": {"regex": "a"}})
    try:
        outcome = await failed(task, activate(job, time_left_s=0.05))
        assert (outcome.status, outcome.error.status_code) == (JobStatus.EXPIRED, 504)
        assert not may_answer.is_set()
    finally:
        may_answer.set()


@pytest.mark.parametrize("num_failures", [2, 100])
async def test_a_checker_that_does_not_start_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, num_failures: int
) -> None:
    """The grammar is invalid: a checker that starts refuses it."""
    starts = iter(range(num_failures))
    popen = subprocess.Popen

    def start(*args: Any, **kwargs: Any) -> Any:
        if next(starts, None) is not None:
            raise BlockingIOError("too many processes")
        return popen(*args, **kwargs)

    monkeypatch.setattr("shared.request.grammar_checker.subprocess.Popen", start)
    monkeypatch.setattr("worker.jobs.task.CHECKER_PAUSE_S", 0.0)
    encoder = PromptEncoder(make_card(), letter_tokenizer().to_str().encode())
    task = ChatTask(EngineThread(FakeEngine()), encoder, "card", RecordingWriter())
    job = make_job(generate_kwargs={"structured_outputs": {"grammar": "root ::= ("}})
    outcome = await failed(task, activate(job))
    assert outcome.error.status_code == (400 if num_failures == 2 else 503)
