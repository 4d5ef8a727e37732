"""How a request begins: its groups of sequences, each with what makes text of its tokens."""

from collections.abc import Iterator
from dataclasses import replace

from worker.engine.beam.output import BeamStream
from worker.engine.request import Request
from worker.engine.sampling.logits_processors import active_processors
from worker.engine.sequence import Sequence
from worker.engine.sequence_group import SequenceGroup
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.text_stream import TextStream

Stream = TextStream | BeamStream


def begin(
    request: Request, arrivals: Iterator[int], token_bytes: TokenBytes, num_drafts: int | None
) -> dict[SequenceGroup, Stream]:
    """The groups that a request is run as; none when an earlier attempt completed it.

    Every sequence takes one of `arrivals`, the order among equals. Drafts are `num_drafts` per step
    where the request does not say.
    """
    if request.params.num_beams > 1:
        return _search(request, arrivals, token_bytes)
    return _continue(request, arrivals, token_bytes, num_drafts)


def _continue(
    request: Request, arrivals: Iterator[int], token_bytes: TokenBytes, num_drafts: int | None
) -> dict[SequenceGroup, Stream]:
    """A group for each sequence that is not complete."""
    processors = active_processors(request.params)
    sequences = [
        Sequence.of(request, index, next(arrivals), processors, num_drafts)
        for index in range(request.params.num_return_sequences)
    ]
    streams = ((SequenceGroup([s]), TextStream(s, token_bytes)) for s in sequences)
    return {group: stream for group, stream in streams if stream.finish_reason is None}


def _search(
    request: Request, arrivals: Iterator[int], token_bytes: TokenBytes
) -> dict[SequenceGroup, Stream]:
    """One group for all beams, from the start."""
    processors = active_processors(request.params)
    prompt = Sequence.of(replace(request, generated=()), 0, next(arrivals), processors)
    return {SequenceGroup([prompt], request.params.num_beams): BeamStream(request, token_bytes)}
