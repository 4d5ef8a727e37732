"""Sequences for tests of the engine's parts."""

from worker.engine.request import Request
from worker.engine.sampling.logits_processors import make_pipeline
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence
from worker.engine.speculation.prompt_lookup import PromptLookup


def make_sequence(
    prompt: list[int],
    params: SamplingParams | None = None,
    *,
    generated: tuple[int, ...] = (),
    index: int = 0,
    arrival: int = 0,
    priority: int = 0,
    gives_way: bool = False,
    adapter: str | None = None,
) -> Sequence:
    request = Request(
        request_id=f"request-{arrival}",
        prompt_token_ids=prompt,
        params=params or SamplingParams(),
        generated=((),) * index + (generated,),
        priority=priority,
        gives_way=gives_way,
        adapter=adapter,
    )
    proposer = PromptLookup.of(request.params, default=None)
    return Sequence.of(request, index, arrival, make_pipeline(request.params), proposer)
