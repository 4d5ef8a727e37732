"""Choose the work of batches that joins a step of other requests.

A row more makes a step longer, for all of its rows. So the rows of batches pause while other
requests run, except for a share of each step's time: they keep their blocks and continue later.
The unit of cost is that of `prompt_budget`.
"""

from collections.abc import Sequence as Items
from typing import NamedTuple

from worker.engine.scheduling.prompt_budget import token_cost
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import StepPlan
from worker.engine.sequence import Sequence


class Work(NamedTuple):
    """A sequence that computes in a step, and the most tokens that it may."""

    group: SequenceGroup
    sequence: Sequence
    num_wanted: int


class BatchBudget:
    """The cost that batches may add to the steps of other requests.

    A step's budget is a share of the cost of its other work. A budget too small for the first group
    is kept for later steps, so that every group gets its turn. Other rests are not kept: runtimes
    take longer for steps whose number of tokens changes.
    """

    def __init__(self, share: float, max_chunk_tokens: int) -> None:
        self._share = share
        self._fixed_cost = max_chunk_tokens - 1  # of a step: most of it reads the weights
        self._saved = 0.0

    def choose(
        self, others: StepPlan, batch_work: Items[Items[Work]], *, max_tokens: int
    ) -> list[Work]:
        """Return the work that joins a step, in order, and spend its cost.

        `batch_work` has an item per group. Beams that each compute one token join together.
        """
        cost = sum(chunk.num_tokens * token_cost(chunk.start) for chunk in others.chunks)
        cost_left = self._saved + self._share * (self._fixed_cost + cost)
        self._saved = 0.0
        chosen: list[Work] = []
        for group_work in batch_work:
            cost_of_one = sum(token_cost(work.sequence.num_computed_tokens) for work in group_work)
            num_tokens = min(
                group_work[0].num_wanted,
                int(cost_left / cost_of_one),
                max_tokens // len(group_work),
            )
            if num_tokens == 0:
                self._saved = 0.0 if chosen else min(cost_left, cost_of_one)
                break
            cost_left -= num_tokens * cost_of_one
            max_tokens -= num_tokens * len(group_work)
            chosen += [work._replace(num_wanted=num_tokens) for work in group_work]
        return chosen
