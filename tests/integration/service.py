"""The service without HTTP: submit jobs as an api replica does, and wait for their results."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
from redis.asyncio import Redis

from shared.protocol import Event, Failed, JobRecord, JobStatus, Succeeded, TokenDeltas
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.queue.reply_stream import ReplyStream, Subscription
from shared.registry.worker_registry import Registry
from tests.factories import make_job

# Timeout of every wait: on a busy machine, processes that import torch take minutes to start.
WAIT_S = 180.0
ROOT = Path(__file__).parents[2]


async def eventually(holds: Callable[[], Awaitable[bool]], timeout_s: float = WAIT_S) -> None:
    """Wait until the condition holds; fail the test if it does not in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await holds():
        assert asyncio.get_running_loop().time() < deadline, "the condition did not hold in time"
        await asyncio.sleep(0.02)


def launch(command: str, settings: dict[str, object], log: Path) -> "subprocess.Popen[bytes]":
    """Start `falconer api` or `falconer worker` with its stderr in `log`."""
    environment = {f"FALCONER_{name.upper()}": str(value) for name, value in settings.items()}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "falconer", command],
            cwd=ROOT,
            env=os.environ | environment,
            stderr=file,
        )


@dataclass
class Child:
    """A process that the test started, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the process, which first handles the signals that it got meanwhile."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, WAIT_S)

    @property
    def log_text(self) -> str:
        return self.log.read_text()


@dataclass
class WorkerChild(Child):
    id: str


@dataclass
class ApiChild(Child):
    url: str

    async def ready(self, path: str = "/health") -> None:
        """Wait until `path` answers; `/health` also waits until a worker has loaded the model."""

        async def is_ready() -> bool:
            assert self.process.poll() is None, self.log_text
            try:
                async with httpx.AsyncClient(trust_env=False) as http:
                    return (await http.get(self.url + path, timeout=WAIT_S)).is_success
            except httpx.TransportError:
                return False

        await eventually(is_ready)

    def sdk(self) -> openai.AsyncOpenAI:
        """Return OpenAI's client of this replica; it repeats no request."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=WAIT_S
        )


@dataclass
class SubmittedJob:
    """A submitted job; `events` fills while `end` waits."""

    id: str
    subscription: Subscription
    events: list[Event] = field(default_factory=list)

    async def has_another_event(self) -> bool:
        try:
            self.events.append(await self.subscription.get(0))
        except TimeoutError:
            return False
        return True

    async def end(self) -> Succeeded | Failed:
        async with asyncio.timeout(WAIT_S):
            while True:
                event = await self.subscription.get(None)
                self.events.append(event)
                if not isinstance(event, TokenDeltas):
                    return event


@dataclass
class Service:
    """Clients of the queue, as in an api replica."""

    redis: Redis
    keys: Keys
    queue: JobQueue
    registry: Registry
    reader: ReplyStream
    subscriptions: ExitStack = field(default_factory=ExitStack)

    async def ready(self, *workers: WorkerChild) -> None:
        async def all_live() -> bool:
            for worker in workers:
                assert worker.process.poll() is None, worker.log_text
            live = {info.id for info in await self.registry.workers()}
            return {worker.id for worker in workers} <= live

        await eventually(all_live)

    async def submit(
        self, *, new_tokens: int = 8, stream: bool = False, **job: Any
    ) -> SubmittedJob:
        """Submit a sampled request that runs for exactly `new_tokens` tokens."""
        kwargs = {"max_new_tokens": new_tokens, "eos_token_id": None}
        made = make_job(
            prompt="Once upon a time",
            generate_kwargs=kwargs | job.pop("generate_kwargs", {}),
            card_hash=None,
            token_ids=None,
            max_new_tokens=None,
            stream=stream,
            **job,
        )
        subscription = self.subscriptions.enter_context(self.reader.subscribe(made.id))
        await self.queue.enqueue(made, reply_to="api-1", max_queued=10_000)
        return SubmittedJob(made.id, subscription)

    async def record(self, job: SubmittedJob) -> JobRecord:
        record = await self.queue.record(job.id)
        assert record is not None
        return record

    async def wait_until_started(self, job: SubmittedJob) -> None:
        """Wait until the first attempt has started, and maybe ended."""

        async def is_counted() -> bool:
            return (await self.record(job)).attempts > 0

        await eventually(is_counted)

    async def freeze_at_work(
        self, worker: WorkerChild, count: int = 1, **job: Any
    ) -> list[SubmittedJob]:
        """Freeze the worker while it runs some of `count` new jobs, and return these jobs.

        If the worker has ended them before it freezes, it gets the same number again.
        """
        while True:
            jobs = [await self.submit(**job) for _ in range(count)]
            await self.wait_until_started(jobs[0])
            worker.freeze()
            records = [await self.record(job) for job in jobs]
            if any(is_run_by(worker, record) for record in records):
                return jobs
            worker.thaw()
            await asyncio.gather(*(job.end() for job in jobs))


def is_run_by(worker: WorkerChild, record: JobRecord) -> bool:
    return record.status is JobStatus.RUNNING and record.worker == worker.id
