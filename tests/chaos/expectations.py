"""What each ask yields on an undisturbed service, and how an answer differs from it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.asks import Ask
from tests.chaos.told import Told

TIMEOUT_S = 120.0
SAME_IN_ALL = ("text", "finish_reason", "token_count", "token_ids")


@dataclass(slots=True)
class Expectations:
    """Results by the name of the ask, with the token ids."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def differences(self, ask: Ask, result: dict[str, Any]) -> Iterator[str]:
        expected = self.results[ask.name]
        for name in ("Result", "usage", "seed"):
            if result[name] != expected[name]:
                yield f"{name} is {result[name]!r}, expected {expected[name]!r}"
        pairs = zip(expected["sequences"], result["sequences"], strict=True)
        for number, (wanted, got) in enumerate(pairs):
            for name in SAME_IN_ALL:
                if name in got and got[name] != wanted[name]:
                    yield f"sequence {number} has another {name}"

    def differences_of_stream(self, ask: Ask, told: Told) -> Iterator[str]:
        """The pieces make up the text; those of a job that was cancelled its beginning."""
        for number, wanted in enumerate(self.results[ask.name]["sequences"]):
            text, token_ids = told.texts.get(number, ""), told.token_ids.get(number, [])
            if not wanted["text"].startswith(text):
                yield f"sequence {number} of {told.job_id[:8]} was told as {text!r}"
            if token_ids and token_ids != wanted["token_ids"][: len(token_ids)]:
                yield f"sequence {number} of {told.job_id[:8]} has other token ids"

    def rest_untold(self, ask: Ask, told: Told) -> Iterator[str]:
        """What is missing from the stream of a job that succeeded; beams tell nothing before."""
        if ask.is_beam:
            return
        for number, wanted in enumerate(self.results[ask.name]["sequences"]):
            if told.texts.get(number, "") != wanted["text"]:
                yield f"sequence {number} of {told.job_id[:8]} was not told to its end"


async def undisturbed(urls: dict[str, str], asks: list[Ask]) -> Expectations:
    """Ask a service of which nothing is broken."""
    url = next(iter(urls.values()))
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as http:
        answers = await asyncio.gather(
            *(http.post(f"{url}/chat", json=ask.told_in_full) for ask in asks)
        )
    for ask, answer in zip(asks, answers, strict=True):
        assert answer.status_code == 200, f"{ask.name}: {answer.text}"
    return Expectations(
        {ask.name: answer.json() for ask, answer in zip(asks, answers, strict=True)}
    )
