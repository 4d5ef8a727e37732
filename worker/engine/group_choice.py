"""Chooses how each group goes on from a step's logits: by a token, or by new beams.

Knows nothing of KV cache or text.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worker.engine.beam_candidates import Candidates
from worker.engine.beam_stream import BeamStream
from worker.engine.choice import Choice, NoChoice
from worker.engine.group import SequenceGroup
from worker.engine.sampler import choose_tokens
from worker.engine.text_stream import TextStream

GroupChoice = Choice | list[Candidates] | NoChoice


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
def choose(
    logits: torch.Tensor,
    groups: list[SequenceGroup],
    streams: list[TextStream | BeamStream | None],
) -> list[GroupChoice]:
    """One choice per group from the float32 `logits` [n, vocab] of all their sequences, in order.

    Groups with a beam search get candidates; for all others' single rows one call chooses.
    `logits` are spent.
    """
    choices: dict[SequenceGroup, GroupChoice] = {}
    single: dict[SequenceGroup, int] = {}
    row = 0
    for group, stream in zip(groups, streams, strict=True):
        end = row + len(group.sequences)
        if isinstance(stream, BeamStream):
            choices[group] = stream.propose(logits[row:end], group.sequences)
        else:
            single[group] = row
        row = end
    rows = torch.tensor(list(single.values()), dtype=torch.int64, device=logits.device)
    chosen = choose_tokens(logits[rows] if choices else logits, [g.sequences[0] for g in single])
    choices.update(zip(single, chosen, strict=True))
    return [choices[group] for group in groups]
