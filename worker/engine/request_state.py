"""The state of a request: its groups of sequences, each with its text or its beam search."""

from collections.abc import Iterator
from dataclasses import replace

from worker.engine.beam.output import BeamState
from worker.engine.config import EngineConfig
from worker.engine.grammar.grammars import Grammars
from worker.engine.grammar.output_constraint import CpuBudget
from worker.engine.request import Request
from worker.engine.sampling.logits_processors import make_pipeline
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.sequence import Sequence
from worker.engine.speculation.prompt_lookup import PromptLookup
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.sequence_text import SequenceText

GroupState = SequenceText | BeamState


def create_groups(
    request: Request,
    arrivals: Iterator[int],
    token_bytes: TokenBytes,
    grammars: Grammars,
    config: EngineConfig,
) -> dict[SequenceGroup, GroupState]:
    """Create the groups that run a request; none if an earlier attempt completed it.

    Each sequence takes the next of `arrivals`. Raises ValueError for an invalid grammar.
    """
    if request.params.num_beams > 1:
        return _create_search(request, arrivals, token_bytes, grammars)
    return _create_sequences(request, arrivals, token_bytes, grammars, config)


def _create_sequences(
    request: Request,
    arrivals: Iterator[int],
    token_bytes: TokenBytes,
    grammars: Grammars,
    config: EngineConfig,
) -> dict[SequenceGroup, GroupState]:
    """Create a group for each sequence that is not complete."""
    params, pipeline = request.params, make_pipeline(request.params)
    budget = CpuBudget()
    sequences = [
        Sequence.of(
            request,
            index,
            next(arrivals),
            pipeline,
            PromptLookup.of(params, config.prompt_lookup_num_tokens, request.prediction),
            grammars.constrain(params, budget, request.matcher),
        )
        for index in range(params.num_return_sequences)
    ]
    texts = ((SequenceGroup([s]), SequenceText(s, token_bytes)) for s in sequences)
    return {group: text for group, text in texts if text.finish_reason is None}


def _create_search(
    request: Request, arrivals: Iterator[int], token_bytes: TokenBytes, grammars: Grammars
) -> dict[SequenceGroup, GroupState]:
    """Create one group for all beams, which start from the prompt."""
    pipeline = make_pipeline(request.params)
    constraint = grammars.constrain(request.params, CpuBudget(), request.matcher)
    prompt = Sequence.of(
        replace(request, generated=()), 0, next(arrivals), pipeline, constraint=constraint
    )
    return {SequenceGroup([prompt], request.params.num_beams): BeamState(request, token_bytes)}
