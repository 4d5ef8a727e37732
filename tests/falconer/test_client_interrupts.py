"""An interrupt during a submission leaves no job behind."""

import asyncio
import signal
import subprocess
import sys
import threading

import pytest

from falconer.client import AsyncClient
from tests.falconer.job_service import PATIENCE_S, JobService, job_service

# Runs in a process of its own: the signal reaches its main thread and no other.
SCRIPT = """
import signal, sys
from falconer.client import Client
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores SIGINT
sys.stdin.read()  # the parent closes it as soon as it is ready
with Client(sys.argv[1]) as client:
    try:
        {call}
    except KeyboardInterrupt:
        print("interrupted")
"""


def interrupt_during(call: str, service: JobService) -> None:
    """Run a call of the client, and send its process SIGINT during the first submission."""
    command = [sys.executable, "-c", SCRIPT.format(call=call), service.url]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        service.on_first = lambda: process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert output == "interrupted\n"
    assert process.returncode == 0


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
    with job_service() as service:
        interrupt_during('client.chat("Hello")', service)
        assert_withdrawn(service)


def test_a_task_cancelled_during_the_submission_of_a_chat_cancels_the_job() -> None:
    received = threading.Event()
    with job_service(received.set) as service:
        asyncio.run(cancel_during_submission(service, received))
        assert_withdrawn(service)


def test_an_interrupted_submission_with_a_key_of_the_caller_leaves_the_job() -> None:
    with job_service() as service:
        interrupt_during('client.submit("Hello", idempotency_key="mine")', service)
        assert service.keys == ["mine"]
        assert service.cancelled == []
