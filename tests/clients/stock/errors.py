"""The `openai` package: headers, errors, timeouts and retries."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from tests.clients.stock.calls import HELLO, MODEL, Calls, Target

calls = Calls("openai")

GREEDY: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "temperature": 0, "max_tokens": 4}
LONG: dict[str, Any] = GREEDY | {"max_tokens": 1900, "extra_body": {"ignore_eos": True}}
ERRORS, RETRIES = "errors", "retries"
MAX_RETRIES = 2


class Requests:
    """The requests that a client sent, to see how often it repeated one."""

    def __init__(self) -> None:
        self.retry_counts: list[str] = []

    def add(self, request: httpx2.Request) -> None:
        self.retry_counts.append(request.headers["x-stainless-retry-count"])


@contextmanager
def repeating(target: Target, **options: Any) -> Iterator[tuple[openai.OpenAI, Requests]]:
    """Return a client with its own retries, and the requests that it sends."""
    requests = Requests()
    http = httpx2.Client(event_hooks={"request": [requests.add]}, trust_env=False)
    options = target.options | {"max_retries": MAX_RETRIES, "http_client": http} | options
    with openai.OpenAI(**options) as client:
        yield client, requests


@contextmanager
def dropping_proxy(url: str) -> Iterator[str]:
    """Return the address of a port that drops its first connection, and passes on the others."""
    address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 0))

    def serve(listener: socket.socket) -> None:
        listener.accept()[0].close()
        with listener.accept()[0] as client, socket.create_connection(address) as server:
            answering = threading.Thread(target=pump, args=(server, client))
            answering.start()
            pump(client, server)
            answering.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


@calls("with_raw_response", "`x-request-id` and `Location`")
def raw_response(target: Target) -> None:
    raw = target.openai.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=2
    )
    job_id = raw.parse().id.removeprefix("chatcmpl-")
    assert raw.headers["location"] == f"/jobs/{job_id}"
    assert raw.request_id == job_id == raw.parse()._request_id


@calls("with_raw_response", "the `x-request-id` that the request had")
def request_id(target: Target) -> None:
    raw = target.openai.completions.with_raw_response.create(
        **GREEDY, extra_headers={"x-request-id": "mine"}
    )
    assert raw.request_id == "mine"


@calls("with_streaming_response", "the lines of a stream")
def streaming_response(target: Target) -> None:
    with target.openai.completions.with_streaming_response.create(
        **GREEDY, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


@calls(ERRORS, "`BadRequestError` for a refused field")
def refused(target: Target) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        target.openai.completions.create(**GREEDY, suffix="!")
    assert (error.value.param, error.value.code) == ("suffix", "unsupported_parameter")


@calls(ERRORS, "`BadRequestError` for an unknown field")
def unknown_field(target: Target) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        target.openai.completions.create(**GREEDY, extra_body={"temprature": 1})
    assert (error.value.param, error.value.code) == ("temprature", "unknown_parameter")


@calls(ERRORS, "`BadRequestError` for a value out of range")
def invalid_value(target: Target) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        target.openai.chat.completions.create(model=MODEL, messages=HELLO, top_p=7)
    assert (error.value.param, error.value.code) == ("top_p", "invalid_value")


@calls(ERRORS, "`BadRequestError` for a prompt that is too long")
def too_long(target: Target) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        target.openai.completions.create(**GREEDY | {"prompt": "Hello " * 4000})
    assert error.value.code == "context_length_exceeded"


@calls(ERRORS, "`BadRequestError` for tools that the model would call")
def tools(target: Target) -> None:
    tool: Any = {"type": "function", "function": {"name": "fly", "parameters": {}}}
    with pytest.raises(openai.BadRequestError) as error:
        target.openai.chat.completions.create(model=MODEL, messages=HELLO, tools=[tool])
    assert (error.value.param, error.value.code) == ("tools", "unsupported_parameter")


@calls(ERRORS, "`NotFoundError` for an unknown model")
def unknown_model(target: Target) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        target.openai.completions.create(**GREEDY | {"model": "gpt-4"})
    assert (error.value.param, error.value.code) == ("model", "model_not_found")


@calls(ERRORS, "`ConflictError` for an `Idempotency-Key` of another request")
def conflict(target: Target) -> None:
    headers = {"Idempotency-Key": "stock-conflict"}
    target.openai.completions.create(**GREEDY, extra_headers=headers)
    with pytest.raises(openai.ConflictError):
        target.openai.completions.create(**GREEDY | {"prompt": "Bye"}, extra_headers=headers)


@calls(RETRIES, "one job for both tries with an `Idempotency-Key`")
def same_key(target: Target) -> None:
    headers = {"Idempotency-Key": "stock-same"}
    create = target.openai.completions.create
    first, again = (create(**GREEDY, extra_headers=headers) for _ in range(2))
    assert first.id == again.id


@calls(RETRIES, "a request again, after its connection was dropped")
def dropped_connection(target: Target) -> None:
    with dropping_proxy(target.url) as base_url:
        with repeating(target, base_url=base_url) as (client, requests):
            assert client.completions.create(**GREEDY).choices[0].text
    assert requests.retry_counts == ["0", "1"]


@calls(RETRIES, "none after `x-should-retry: false`, as the job has failed")
def no_retry(target: Target) -> None:
    extra = {"ignore_eos": True, "deadline_s": 0.01}
    with repeating(target) as (client, requests):
        with pytest.raises(openai.APIStatusError) as error:
            client.completions.create(**GREEDY | {"max_tokens": 1900}, extra_body=extra)
    assert error.value.response.headers["x-should-retry"] == "false", error.value
    assert requests.retry_counts == ["0"]


@calls(RETRIES, "none after a refusal")
def no_retry_of_refusals(target: Target) -> None:
    with repeating(target) as (client, requests), pytest.raises(openai.BadRequestError):
        client.completions.create(**GREEDY | {"temperature": -1})
    assert requests.retry_counts == ["0"]


@calls("timeouts", "`APITimeoutError`, which cancels the job")
def timeout(target: Target) -> None:
    extra = {"ignore_eos": True, "metadata": {"stock": "timeout"}}
    with pytest.raises(openai.APITimeoutError):
        target.openai.with_options(timeout=0.1).completions.create(
            **GREEDY | {"max_tokens": 1900}, extra_body=extra
        )
    newest = target.get("/jobs", limit=1)["jobs"][0]["id"]
    job = target.get(f"/jobs/{newest}", wait=60)
    assert job["metadata"] == {"stock": "timeout"} and job["status"] == "cancelled", job
