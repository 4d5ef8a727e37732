"""Results of a service without faults, and the differences of other results from them."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.checks.stream_trace import StreamTrace
from tests.chaos.scenarios.requests import Request

TIMEOUT_S = 120.0
COMPARED_FIELDS = ("text", "finish_reason", "token_count", "token_ids")


@dataclass(slots=True)
class ExpectedResults:
    """Results of all requests of a run."""

    results: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # by request name, with token ids

    def differences(self, request: Request, result: dict[str, Any]) -> Iterator[str]:
        expected = self.results[request.name]
        for name in ("Result", "usage", "seed"):
            if result[name] != expected[name]:
                yield f"{name} is {result[name]!r}, expected {expected[name]!r}"
        pairs = zip(expected["sequences"], result["sequences"], strict=True)
        for number, (wanted, got) in enumerate(pairs):
            for name in COMPARED_FIELDS:
                if name in got and got[name] != wanted[name]:
                    yield f"sequence {number} has a different {name}"

    def differences_of_stream(self, request: Request, trace: StreamTrace) -> Iterator[str]:
        """Yield where the streamed text is not the expected text or a prefix of it."""
        for number, wanted in enumerate(self.results[request.name]["sequences"]):
            text, token_ids = trace.texts.get(number, ""), trace.token_ids.get(number, [])
            if not wanted["text"].startswith(text):
                yield f"sequence {number} of {trace.job_id[:8]} was streamed as {text!r}"
            if token_ids and token_ids != wanted["token_ids"][: len(token_ids)]:
                yield f"sequence {number} of {trace.job_id[:8]} has different token ids"

    def missing_deltas(self, request: Request, trace: StreamTrace) -> Iterator[str]:
        """Yield sequences whose stream is incomplete; beam searches stream no tokens."""
        if request.is_beam:
            return
        for number, wanted in enumerate(self.results[request.name]["sequences"]):
            if trace.texts.get(number, "") != wanted["text"]:
                yield f"sequence {number} of {trace.job_id[:8]} was not streamed to its end"


async def run_without_faults(urls: dict[str, str], requests: list[Request]) -> ExpectedResults:
    """Return the results of all requests; call this before the first fault."""
    url = next(iter(urls.values()))
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as http:
        answers = await asyncio.gather(
            *(http.post(f"{url}/chat", json=request.body_with_token_ids) for request in requests)
        )
    for request, answer in zip(requests, answers, strict=True):
        assert answer.status_code == 200, f"{request.name}: {answer.text}"
    return ExpectedResults(
        {request.name: answer.json() for request, answer in zip(requests, answers, strict=True)}
    )
