"""How well a model foretells a text: at every token, what it says of the next one.

Works with any executor: each position is a row of its own, and all rows share the text's blocks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from worker.engine import Engine, Request, SamplingParams
from worker.engine.sampling.logits_processors.base import LogitsPipeline
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence import Sequence
from worker.engine.sequence_group import SequenceGroup

ROWS_PER_STEP = 64


@dataclass(frozen=True, slots=True)
class TextScores:
    """Over all positions of some texts: the token that seems likeliest, and the true one's cost."""

    best_token_ids: list[int]
    nats: list[float]

    @property
    def perplexity(self) -> float:
        return math.exp(math.fsum(self.nats) / len(self.nats))

    def agreement(self, other: "TextScores") -> float:
        """Share of the positions at which both would choose the same token."""
        pairs = zip(self.best_token_ids, other.best_token_ids, strict=True)
        return sum(one == another for one, another in pairs) / len(self.nats)


def score_texts(engine: Engine, texts: list[list[int]]) -> TextScores:
    """Read texts of at least two tokens, each alone. The engine must be idle, and stays so."""
    best: list[int] = []
    nats: list[float] = []
    for token_ids in texts:
        for start, logits in _steps(engine, token_ids):
            following = torch.tensor(token_ids[start + 1 : start + 1 + len(logits)])
            costs = torch.nn.functional.cross_entropy(
                logits.cpu().double(), following, reduction="none"
            )
            best += logits.argmax(dim=-1).tolist()
            nats += costs.tolist()
    return TextScores(best, nats)


def _steps(engine: Engine, token_ids: list[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """For some positions in turn, the first one and logits [n, vocab] of all; not of the last.

    Keys and values of a step are in the cache before anybody attends to them, so the positions
    of one step may see each other.
    """
    request = Request(request_id="text", prompt_token_ids=token_ids, params=SamplingParams())
    blocks = list(range(-(-len(token_ids) // engine.config.block_size)))
    positions = range(len(token_ids) - 1)
    for start in positions[::ROWS_PER_STEP]:
        rows = [
            _row(request, position, blocks) for position in positions[start : start + ROWS_PER_STEP]
        ]
        yield start, engine.runner.forward(StepPlan(tuple(rows)))


def _row(request: Request, position: int, blocks: list[int]) -> Chunk:
    """The token at `position` alone, as if it were the last of its text."""
    sequence = Sequence(request, 0, 0, request.prompt_token_ids[: position + 1], LogitsPipeline())
    sequence.block_table = blocks
    return Chunk(SequenceGroup([sequence]), sequence, start=position, num_tokens=1)
