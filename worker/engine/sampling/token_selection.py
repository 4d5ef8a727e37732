"""Chooses how each group goes on from a step's logits: by tokens, or by new beams.

Knows nothing of KV cache or text.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, islice

import torch

from worker.engine.beam.candidates import Candidates
from worker.engine.beam.output import BeamStream
from worker.engine.request_state import Stream
from worker.engine.sampling.sampled_token import NoChoice
from worker.engine.sampling.sampler import choose_tokens
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence_group import SequenceGroup
from worker.engine.speculation.verification import NextTokens, verified

GroupChoice = NextTokens | list[Candidates] | NoChoice


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch to the calling thread.

    It would share each of many operations, of microseconds, with other threads, and wait for
    milliseconds wherever somebody else has their cores.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@torch.inference_mode()
@_one_thread()
def choose(logits: torch.Tensor, plan: StepPlan, streams: list[Stream | None]) -> list[GroupChoice]:
    """One choice for each of `plan.sampled_groups` from the plan's float32 `logits` [n, vocab].

    Groups with a beam search get candidates; for the rows of all others, one and one more for each
    draft, one call chooses. `logits` are spent.
    """
    choices: dict[SequenceGroup, GroupChoice] = {}
    single: list[Chunk] = []
    rows: list[int] = []
    row = 0
    by_group = groupby(plan.sampled_chunks, lambda chunk: chunk.group)
    for (group, chunks), stream in zip(by_group, streams, strict=True):
        members = list(chunks)
        end = row + sum(chunk.num_sampled for chunk in members)
        if isinstance(stream, BeamStream):
            choices[group] = stream.propose(logits[row:end], group.sequences)
        else:
            single += members
            rows += range(row, end)
        row = end
    index = torch.tensor(rows, dtype=torch.int64, device=logits.device)
    choices.update(_choose_tokens(logits[index] if choices else logits, single))
    return [choices[group] for group in plan.sampled_groups]


def _choose_tokens(
    logits: torch.Tensor, chunks: list[Chunk]
) -> Iterator[tuple[SequenceGroup, NextTokens | NoChoice]]:
    """What follows each chunk of a group of one, from the `logits` of just these."""
    chosen = iter(choose_tokens(logits, [s for chunk in chunks for s in chunk.sampled]))
    for chunk in chunks:
        own = list(islice(chosen, chunk.num_sampled))
        yield chunk.group, verified(own, chunk.drafts)
