"""A service in one process for tests of the api: fake Redis, echo worker, ASGI client.

It imports no torch, so that tests of the api run without it.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fakeredis import FakeAsyncRedis, FakeServer
from fastapi import FastAPI
from redis.asyncio import Redis
from starlette.types import ASGIApp, Message
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from api.app import asgi_app, create_app, lifespan
from api.services import Services
from api.settings import ApiSettings
from shared.protocol import (
    Batch,
    ChatJob,
    ChatResult,
    Delta,
    Failed,
    Finished,
    JobError,
    JobStatus,
    ModelCard,
    SequenceResult,
    Usage,
    WorkerInfo,
    encode,
)
from shared.queue.claims import ClaimedJob, FreeCapacity
from shared.queue.job_queue import JobQueue
from shared.queue.keys import WORKER_TTL_S, Keys
from shared.queue.token_log import TokenLog
from shared.queue.worker_registry import Registry
from tests.factories import make_worker_info

LEASE_MS = 60_000
FREE = FreeCapacity(rows=100, tokens=1_000_000, running=0)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def letter_tokenizer() -> Tokenizer:
    """Byte-level, without merges: one token per byte of the text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return tokenizer


def letter_card(chat_template: str | None = CHAT_TEMPLATE) -> ModelCard:
    """A model of 2048 tokens context and 257 tokens vocabulary, with two adapters."""
    return ModelCard(
        name="letters",
        context_length=2048,
        vocab_size=257,
        eos_token_ids=[256],
        pad_token_id=256,
        bos_token_id=256,
        chat_template=chat_template,
        max_rows=8,
        max_kv_tokens=8192,
        max_num_beams=8,
        adapters=("tales", "verse"),
        template_tokens={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    )


class EchoWorker:
    """Answers each job with its prompt in capitals, one delta per word; holds on while `paused`."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.paused = False
        self.seen: list[ChatJob] = []
        self.stopped: list[str] = []
        self._queue = JobQueue(redis, keys)
        self._log = TokenLog(redis, keys)
        self._running: dict[str, ClaimedJob] = {}

    async def run(self) -> None:
        while True:
            claim = await self._queue.claim("echo", FREE, lease_ms=LEASE_MS)
            for claimed in claim.jobs:
                self.seen.append(claimed.job)
                self._running[claimed.job.id] = claimed
            await self._stop_cancelled()
            if not self.paused:
                for claimed in list(self._running.values()):
                    await self._answer(claimed)
            await asyncio.sleep(0.005)

    async def _stop_cancelled(self) -> None:
        fencing_tokens = {id_: claimed.fencing_token for id_, claimed in self._running.items()}
        renewal = await self._queue.renew("echo", fencing_tokens, lease_ms=LEASE_MS)
        for job_id in renewal.cancelled:
            error = JobError(message="the job was cancelled", status_code=499)
            status = JobStatus.CANCELLED
            outcome = Failed(job_id=job_id, attempt=1, status=status, error=error)
            claimed = self._running.pop(job_id)
            await self._queue.finish(claimed, outcome, fencing_token=claimed.fencing_token)
            self.stopped.append(job_id)

    async def _answer(self, claimed: ClaimedJob) -> None:
        job = claimed.job
        del self._running[job.id]
        if "fail" in (job.prompt.text or ""):
            error = JobError(message="no room on the device", status_code=500)
            status = JobStatus.FAILED
            failed = Failed(job_id=job.id, attempt=1, status=status, error=error)
            await self._queue.finish(claimed, failed, fencing_token=claimed.fencing_token)
            return
        words = [f" {word.upper()}" for word in (job.prompt.text or "hello").split(" ")]
        for index, word in enumerate(words if job.stream else ()):
            await self._send(claimed, index, word)
        await self._queue.finish(claimed, finished(job, words), fencing_token=claimed.fencing_token)

    async def _send(self, claimed: ClaimedJob, index: int, word: str) -> None:
        """Twice, as a command does whose answer was lost."""
        delta = encode(Delta(text=word, token_ids=[index]))
        addition = (claimed.job.id, claimed.fencing_token, index, [delta])
        for _ in range(2):
            await self._log.append(claimed.worker_id, [addition])


def finished(job: ChatJob, words: list[str]) -> Finished:
    text = "".join(words)
    num_prompt = len(job.token_ids or ())
    result = ChatResult(
        result=(job.prompt.text or "") * job.return_full_text + text,
        id=job.id,
        sequences=[SequenceResult(text=text, finish_reason="stop", token_count=len(text))],
        usage=Usage(
            prompt_tokens=num_prompt,
            completion_tokens=len(text),
            total_tokens=num_prompt + len(text),
        ),
        seed=job.seed,
    )
    batch = Batch(mean_rows=1.0, max_rows=1)
    return Finished(
        job_id=job.id,
        attempt=1,
        result=result,
        batch=batch,
        queue_ms=1.0,
        run_ms=2.0,
        num_deltas=len(words) if job.stream else None,
    )


async def keep_reporting(registry: Registry, info: WorkerInfo) -> None:
    while True:
        await asyncio.sleep(WORKER_TTL_S / 3)
        await registry.report(info)


@dataclass
class FakeService:
    """An api in this process over a fake Redis, with or without a worker."""

    app: FastAPI
    asgi: ASGIApp  # what a server runs
    http: httpx.AsyncClient
    server: FakeServer
    redis: Redis
    keys: Keys
    worker: EchoWorker
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def services(self) -> Services:
        services = self.app.state.services
        assert isinstance(services, Services)
        return services

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the service run until `condition` holds; half a minute is a failure."""
        for _ in range(3000):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it did not happen")

    async def until_queued(self, count: int) -> None:
        for _ in range(3000):
            if await self.num_queued() == count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{await self.num_queued()} jobs are queued, not {count}")

    async def num_queued(self) -> int:
        return int(await self.redis.zcard(self.keys.queue))

    async def start_worker(self) -> None:
        """Register model and worker, and wait until the api has read the model."""
        registry = Registry(self.redis, self.keys)
        card_hash = await registry.publish_card(letter_card(), letter_tokenizer().to_str().encode())
        info = make_worker_info("echo", card_hash=card_hash)
        await registry.report(info)
        await self.services.models.refresh()
        self.tasks.append(asyncio.create_task(self.worker.run()))
        self.tasks.append(asyncio.create_task(keep_reporting(registry, info)))

    async def stop_worker(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def abandoned_call(
    app: ASGIApp,
    body: dict[str, Any],
    leave: asyncio.Event,
    headers: Mapping[str, str] | None = None,
) -> list[Message]:
    """`POST /chat` by a client that closes the connection once `leave` is set; what it was sent."""
    sent: list[Message] = []
    requests = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> Message:
        for message in requests:
            return message
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/chat",
        "raw_path": b"/chat",
        "query_string": b"",
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "server": ("api", 80),
    }
    await app(scope, receive, send)
    return sent


@asynccontextmanager
async def fake_service(
    settings: ApiSettings | None = None,
    *,
    with_worker: bool = True,
    server: FakeServer | None = None,
) -> AsyncIterator[FakeService]:
    """An api on `server`, or on a fake Redis of its own."""
    server = server or FakeServer()

    def connect(url: str, *, name: str, block_s: float = 0.0) -> Redis:
        return FakeAsyncRedis(server=server)

    settings = settings or ApiSettings()
    app = create_app(settings, connect)
    asgi = asgi_app(app, settings)
    redis, keys = FakeAsyncRedis(server=server), Keys()
    transport = httpx.ASGITransport(asgi, raise_app_exceptions=False)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        service = FakeService(app, asgi, http, server, redis, keys, EchoWorker(redis, keys))
        if with_worker:
            await service.start_worker()
        try:
            yield service
        finally:
            await service.stop_worker()
            await redis.aclose()


@contextmanager
def served_api() -> Iterator[str]:
    """The fake service behind a real HTTP server on a free loopback port; gives its address."""
    ready, done = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=asyncio.run, args=[_serve(listener, ready, done)])
        thread.start()
        try:
            assert ready.wait(30), "the api did not start"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done.set()
            thread.join(30)


async def _serve(listener: socket.socket, ready: threading.Event, done: threading.Event) -> None:
    async with fake_service() as service:
        config = uvicorn.Config(service.asgi, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        ready.set()
        await asyncio.to_thread(done.wait)
        server.should_exit = True
        await serving
