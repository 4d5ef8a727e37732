"""Load on a server that speaks OpenAI's route, and on a server that speaks our route."""

import asyncio
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer

from bench.report import Report, RequestReport
from bench.service import compare
from bench.service.load import (
    Load,
    apply_loads,
    is_good,
    run_load,
    summarize,
    text_of_length,
    text_workload,
)
from bench.service.routes import Chat, Completions
from bench.service.servers import Server
from shared.errors import FalconerError
from worker.model.checkpoint.tiny import bundled_checkpoint

MODEL = "falcon"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(bundled_checkpoint() / "tokenizer.json"))


class FakeServer:
    """Both routes; refuses bodies that the real servers would refuse."""

    def __init__(self, tokenizer: Tokenizer, missing_tokens: int = 0, wait_for: int = 1) -> None:
        """Make a server that sends no token until `wait_for` requests have run at once."""
        self.tokenizer = tokenizer
        self.missing_tokens = missing_tokens
        self.wait_for = wait_for
        self.all_run = asyncio.Event()
        self.running = 0
        self.most_running = 0
        routes = [
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/chat", self.chat, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        if body["model"] != MODEL or not body["stream"] or not body["ignore_eos"]:
            return JSONResponse({"error": "wrong body"}, 400)
        usage = self.usage(body["prompt"], body["max_tokens"])
        tokens = [{"choices": [{"text": "x"}]} for _ in range(usage["completion_tokens"])]
        assert body["stream_options"] == {"include_usage": True}
        events = [*map(json.dumps, [*tokens, {"choices": [], "usage": usage}]), "[DONE]"]
        return StreamingResponse(self.stream(events), media_type="text/event-stream")

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        kwargs = body["generate_kwargs"]
        if not body["stream"] or kwargs["eos_token_id"] is not None:
            return JSONResponse({"detail": "wrong body"}, 422)
        usage = self.usage(body["prompt"], kwargs["max_new_tokens"])
        tokens = [{"sequence": 0, "text": "x"} for _ in range(usage["completion_tokens"])]
        sequences = [{"token_count": usage["completion_tokens"]}]
        result = {"status": "succeeded", "sequences": sequences, "usage": usage}
        events = map(json.dumps, [*tokens, result])
        return StreamingResponse(self.stream(list(events)), media_type="text/event-stream")

    def usage(self, prompt: str, num_new: int) -> dict[str, int]:
        num_prompt = len(self.tokenizer.encode(prompt).ids)
        return {"prompt_tokens": num_prompt, "completion_tokens": num_new - self.missing_tokens}

    async def stream(self, events: list[str]) -> AsyncIterator[str]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        if self.most_running >= self.wait_for:
            self.all_run.set()
        await self.all_run.wait()
        for event in events[:-1]:
            yield f"data: {event}\n\n"
        self.running -= 1  # before the client can see the end
        yield f"data: {events[-1]}\n\n"


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """Serve on a free loopback port from a thread of its own; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(params=[Chat(), Completions(MODEL)], ids=["chat", "completions"])
def server(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Iterator[Server]:
    with served(FakeServer(tokenizer).app) as url:
        yield Server(url, request.param)


def test_every_load_counts_the_tokens_that_were_asked_for(
    server: Server, tokenizer: Tokenizer
) -> None:
    items = text_workload(tokenizer, 8)
    lines: list[str] = []
    figures = apply_loads(server, items, [1, 4], [5.0], lines.append)
    assert list(figures) == ["1 client", "4 clients", "500% of capacity"]
    assert len(lines) == 3
    prompt_tokens = sum(len(tokenizer.encode(item.prompt or "").ids) for item in items)
    capacity = max(figures[name]["requests_per_s"] for name in ("1 client", "4 clients"))
    for figure in figures.values():
        assert figure["requests"] == 8
        assert figure["prompt_tokens"] == prompt_tokens
        assert figure["tokens_per_event"] == 1
        assert figure["good"] == 1
        assert figure["goodput_per_s"] == figure["requests_per_s"]
        assert figure["ttft_s"]["p50"] > 0
    assert figures["500% of capacity"]["rate"] == 5 * capacity


def test_a_closed_loop_has_as_many_requests_in_flight_as_clients(tokenizer: Tokenizer) -> None:
    fake = FakeServer(tokenizer, wait_for=3)
    with served(fake.app) as url:
        server = Server(url, Completions(MODEL))
        run_load(server, text_workload(tokenizer, 12), Load("three", 12, clients=3))
    assert fake.most_running == 3


def test_a_server_that_ends_early_is_an_error(tokenizer: Tokenizer) -> None:
    with served(FakeServer(tokenizer, missing_tokens=1).app) as url:
        server = Server(url, Completions(MODEL))
        with pytest.raises(FalconerError, match=r"two: \d+ tokens, not \d+"):
            run_load(server, text_workload(tokenizer, 2), Load("two", 2, clients=1))


def test_a_refused_request_is_an_error(tokenizer: Tokenizer) -> None:
    with served(FakeServer(tokenizer).app) as url:
        server = Server(url, Completions("another"))
        with pytest.raises(FalconerError, match="wrong body"):
            run_load(server, text_workload(tokenizer, 1), Load("one", 1, clients=1))


def answered(ttft_s: float, latency_s: float) -> RequestReport:
    sequences: list[dict[str, Any]] = [{"token_count": 11}]
    return RequestReport(sequences, ttft_s=ttft_s, latency_s=latency_s, inter_token_s=[0.1] * 4)


def test_goodput_counts_requests_within_both_limits() -> None:
    assert is_good(answered(2.0, 4.0))
    assert not is_good(answered(2.1, 3.0)), "the first token is late"
    assert not is_good(answered(1.0, 3.1)), "0.21 s between tokens"
    assert not is_good(RequestReport(error="503"))
    report = Report([answered(1.0, 2.0), answered(3.0, 4.0)], wall_s=4.0)
    figures = summarize(report, Load("two", 2, clients=1))
    assert (figures["good"], figures["goodput_per_s"]) == (0.5, 0.25)
    assert figures["tokens_per_event"] == 22 / 10


@pytest.mark.parametrize("num_tokens", [1, 16, 200])
def test_a_text_has_exactly_the_tokens_asked_for(tokenizer: Tokenizer, num_tokens: int) -> None:
    text = text_of_length(tokenizer, num_tokens, random.Random(1))
    assert len(tokenizer.encode(text).ids) == num_tokens


def test_figures_of_zero_are_summarized_and_absent_figures_are_not() -> None:
    rounds = [{"vllm": {"1 client": {"good": good, "rate": None}}} for good in (0.0, 0.5, 0.25)]
    assert compare.summarize(rounds) == {"vllm": {"1 client": {"good": [0.0, 0.25, 0.5]}}}
