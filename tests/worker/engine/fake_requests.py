"""Requests to an engine over a fake model, and their outputs."""

from collections import defaultdict
from typing import Any

from tests.fakes import hashed_letter
from worker.engine import Engine, Output, Request, SamplingParams, TokenOutput

A, B, CRASH, NAN = 97, 98, 1, 2  # tokens


def request(request_id: str, prompt: list[int], **params: Any) -> Request:
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt,
        params=SamplingParams(**params),
    )


def run_to_end(engine: Engine) -> dict[str, list[Output]]:
    """Return all outputs by request id."""
    outputs: defaultdict[str, list[Output]] = defaultdict(list)
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert engine.used_kv_tokens == 0, "blocks leaked"
    return outputs


def tokens(outputs: list[Output], sequence: int = 0) -> list[TokenOutput]:
    return [o for o in outputs if isinstance(o, TokenOutput) and o.sequence == sequence]


def expected(prompt: list[int], count: int) -> list[int]:
    context = list(prompt)
    for _ in range(count):
        context.append(hashed_letter(context))
    return context[len(prompt) :]
