"""Offline generation for scripts and notebooks: all prompts at once, to the end."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from worker.engine.engine import Engine
from worker.engine.outputs import FinishReason, RequestFailed, TokenOutput
from worker.engine.request import Request
from worker.engine.sampling_params import SamplingParams


class GenerationFailed(Exception):
    """A request failed while it ran; the message is for the caller."""


@dataclass(slots=True)
class Completion:
    """One continuation of a prompt."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    score: float | None = None  # of a beam search

    def append(self, output: TokenOutput) -> None:
        self.text += output.text
        self.token_ids.append(output.token_id)
        self.finish_reason = output.finish_reason
        self.score = output.score


def generate(
    engine: Engine,
    prompts: Iterable[str],
    params: SamplingParams | None = None,
    *,
    adapter: str | None = None,
) -> list[list[Completion]]:
    """Continue each prompt `params.num_return_sequences` times, in one batch.

    `adapter` names an adapter of the engine; None is the model itself. Steps run on
    `engine.num_torch_threads` threads; the number of torch threads is restored afterwards.

    Raises RuntimeError if the engine has other requests, ValueError if a prompt can never run,
    GenerationFailed if a request fails, TypeError for a single string. The engine is idle
    afterwards in any case.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts must be a list of strings, not one string")
    if engine.has_work:
        raise RuntimeError("the engine must be idle; it has other requests")
    params = params or SamplingParams()
    completions: dict[str, list[Completion]] = {}
    try:
        for number, prompt in enumerate(prompts):
            completions[str(number)] = [Completion() for _ in range(params.num_return_sequences)]
            token_ids = engine.tokenizer.encode(prompt).ids
            request = Request(
                request_id=str(number), prompt_token_ids=token_ids, params=params, adapter=adapter
            )
            engine.add(request)
        with _torch_threads(engine.num_torch_threads):
            while engine.has_work:
                _take_step(engine, completions)
    finally:
        for request_id in completions:
            engine.abort(request_id)
    return list(completions.values())


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _take_step(engine: Engine, completions: dict[str, list[Completion]]) -> None:
    for output in engine.step():
        if isinstance(output, RequestFailed):
            raise GenerationFailed(output.message)
        completions[output.request_id][output.sequence].append(output)
