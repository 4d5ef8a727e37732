"""Select how each group continues from a step's logits: verified tokens, or beam candidates."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, islice

import torch

from worker.engine.beam.candidates import Candidates
from worker.engine.beam.output import BeamState
from worker.engine.request_state import GroupState
from worker.engine.sampling.sampled_token import SamplingFailure
from worker.engine.sampling.sampler import sample_tokens
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence_group import SequenceGroup
from worker.engine.speculation.verification import VerifiedTokens, verify_drafts

GroupSelection = VerifiedTokens | list[Candidates] | SamplingFailure


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to the calling thread.

    Sampling runs many operations of microseconds. Shared among threads, each would wait for
    milliseconds whenever another process has one of the cores.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@torch.inference_mode()
@_one_thread()
def select_tokens(
    logits: torch.Tensor, plan: StepPlan, states: list[GroupState | None]
) -> list[GroupSelection]:
    """Select how each of `plan.sampled_groups` continues, from float32 `logits` [n, vocab].

    A beam search gets candidates. All other groups get tokens from one call of the sampler, with a
    row for the sequence and one for each draft. The contents of `logits` are lost.
    """
    selections: dict[SequenceGroup, GroupSelection] = {}
    single: list[Chunk] = []
    rows: list[int] = []
    row = 0
    by_group = groupby(plan.sampled_chunks, lambda chunk: chunk.group)
    for (group, chunks), state in zip(by_group, states, strict=True):
        members = list(chunks)
        end = row + sum(chunk.num_sampled for chunk in members)
        if isinstance(state, BeamState):
            selections[group] = state.propose(logits[row:end], group.sequences)
        else:
            single += members
            rows += range(row, end)
        row = end
    index = torch.tensor(rows, dtype=torch.int64, device=logits.device)
    selections.update(_verified_tokens(logits[index] if selections else logits, single))
    return [selections[group] for group in plan.sampled_groups]


def _verified_tokens(
    logits: torch.Tensor, chunks: list[Chunk]
) -> Iterator[tuple[SequenceGroup, VerifiedTokens | SamplingFailure]]:
    """Yield what follows each chunk of a group of one, from the `logits` of just these chunks."""
    sampled = iter(sample_tokens(logits, [s for chunk in chunks for s in chunk.sampled]))
    for chunk in chunks:
        own = list(islice(sampled, chunk.num_sampled))
        yield chunk.group, verify_drafts(own, chunk.drafts)
