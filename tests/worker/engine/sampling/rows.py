"""Sequences for tests of the engine's parts."""

from worker.engine.request import Request
from worker.engine.sampling.logits_processors import active_processors
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence


def make_sequence(
    prompt: list[int],
    params: SamplingParams | None = None,
    *,
    generated: tuple[int, ...] = (),
    index: int = 0,
    arrival: int = 0,
    priority: int = 0,
    adapter: str | None = None,
) -> Sequence:
    request = Request(
        request_id=f"request-{arrival}",
        prompt_token_ids=prompt,
        params=params or SamplingParams(),
        generated=((),) * index + (generated,),
        priority=priority,
        adapter=adapter,
    )
    return Sequence.of(request, index, arrival, active_processors(request.params))
