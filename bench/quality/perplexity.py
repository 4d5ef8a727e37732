"""Score texts with a model: its likeliest token at each position, and the cost of the true one.

Works with any backend: each position is a row of its own, and all rows share the text's blocks.
"""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from worker.engine import Engine, Request, SamplingParams
from worker.engine.sampling.logits_processors.base import LogitsPipeline
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.sequence import Sequence

ROWS_PER_STEP = 64


@dataclass(frozen=True, slots=True)
class TextScores:
    """The scores over all positions of some texts."""

    best_token_ids: list[int]  # likeliest token
    nats: list[float]  # negative log-likelihood of the true token

    @property
    def perplexity(self) -> float:
        return math.exp(math.fsum(self.nats) / len(self.nats))

    def agreement(self, other: "TextScores") -> float:
        """Return the share of positions with the same likeliest token."""
        pairs = zip(self.best_token_ids, other.best_token_ids, strict=True)
        return sum(one == another for one, another in pairs) / len(self.nats)


def score_texts(engine: Engine, texts: list[list[int]]) -> TextScores:
    """Score each text of at least two tokens alone. The engine must be idle, and stays idle."""
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
    """Yield the first position of each step and the logits [n, vocab] of its positions.

    A step stores its keys and values before attention, so its positions attend to each other.
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
    """Return a chunk of the token at `position`, as the last token of its text."""
    sequence = Sequence(request, 0, 0, request.prompt_token_ids[: position + 1], LogitsPipeline())
    sequence.block_table = array("i", blocks)
    return Chunk(SequenceGroup([sequence]), sequence, start=position, num_tokens=1)
