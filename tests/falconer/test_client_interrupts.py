"""An interrupt during a submission leaves no job behind."""

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from falconer.client import AsyncClient, Client
from tests.falconer.job_service import PATIENCE_S, JobService, job_service


@pytest.fixture(autouse=True)
def python_handles_interrupts() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt; a process of pytest-xdist has another handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


async def cancel_during_submission(service: JobService, received: threading.Event) -> None:
    async with AsyncClient(service.url) as client:
        chat = asyncio.create_task(client.chat("Hello"))
        assert await asyncio.to_thread(received.wait, PATIENCE_S)
        chat.cancel()
        with pytest.raises(asyncio.CancelledError):
            await chat


def assert_withdrawn(service: JobService) -> None:
    first, second = service.keys
    assert first == second
    assert service.cancelled == ["/jobs/1"]


def test_an_interrupt_during_the_submission_of_a_chat_cancels_the_job() -> None:
    with job_service(interrupt) as service, Client(service.url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.chat("Hello")
        assert_withdrawn(service)


def test_a_task_cancelled_during_the_submission_of_a_chat_cancels_the_job() -> None:
    received = threading.Event()
    with job_service(received.set) as service:
        asyncio.run(cancel_during_submission(service, received))
        assert_withdrawn(service)


def test_an_interrupted_submission_with_a_key_of_the_caller_leaves_the_job() -> None:
    with job_service(interrupt) as service, Client(service.url) as client:
        with pytest.raises(KeyboardInterrupt):
            client.submit("Hello", idempotency_key="mine")
        assert service.keys == ["mine"]
        assert service.cancelled == []
