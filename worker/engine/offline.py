"""All at once and to the end: for scripts and notebooks, where nobody waits for single tokens."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from worker.engine.engine import Engine
from worker.engine.outputs import FinishReason, RequestFailed, TokenOutput
from worker.engine.request import Request
from worker.engine.sampling_params import SamplingParams


class GenerationFailed(Exception):
    """A request failed while it ran; the message is fit for its caller."""


@dataclass(slots=True)
class Completion:
    """One continuation of a prompt. `score` is that of a beam search."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    score: float | None = None

    def take(self, output: TokenOutput) -> None:
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
    """Continue each prompt `params.num_return_sequences` times, all of them together.

    `adapter` is one that the engine serves; None is the model itself.
    Drives an idle engine: whatever else was added to it would be lost, so it raises RuntimeError
    when there is any. Raises ValueError when a prompt can never run, GenerationFailed when one
    fails; the engine is idle again then, too. Raises TypeError for a single string. Steps run on
    `engine.num_torch_threads` threads; the caller's number of them is restored.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts must be several strings, such as a list of one, not a string")
    if engine.has_work:
        raise RuntimeError("the engine has requests of somebody else")
    params = params or SamplingParams()
    completions: dict[str, list[Completion]] = {}
    try:
        for prompt in prompts:
            request_id = str(len(completions))
            completions[request_id] = [Completion() for _ in range(params.num_return_sequences)]
            token_ids = engine.tokenizer.encode(prompt).ids
            engine.add(
                Request(
                    request_id=request_id,
                    prompt_token_ids=token_ids,
                    params=params,
                    adapter=adapter,
                )
            )
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
        completions[output.request_id][output.sequence].take(output)
