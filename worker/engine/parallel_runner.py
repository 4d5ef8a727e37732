"""Runs a step's plan on several processes that hold a part of the network each.

The first one leads: it tells the others what to compute, and samples. They follow until it ends.
"""

from dataclasses import dataclass

import torch
from torch import distributed

from worker.engine.packing import PackedStep
from worker.engine.plan import BlockCopy, StepPlan
from worker.engine.runner import ModelRunner

LEADER = 0


@dataclass(frozen=True, slots=True)
class _Work:
    step: PackedStep
    block_copies: list[BlockCopy]


class LeadingRunner:
    """What the engine of the leading process runs its plans on.

    `control` is a group for messages on the CPU; sums of tensors go through the default group. A
    process that is lost makes every later pass fail: there is no going on without it.
    """

    def __init__(self, runner: ModelRunner, control: distributed.ProcessGroup) -> None:
        self.num_blocks = runner.num_blocks
        self.runner = runner
        self._control = control

    def forward(self, plan: StepPlan) -> torch.Tensor:
        step = PackedStep.of(plan, self.runner.block_size)
        return self._compute(_Work(step, plan.block_copies))

    def warm_up(self) -> None:
        """As `ModelRunner.warm_up`, in all processes."""
        for step in self.runner.warm_up_steps():
            self._compute(_Work(step, []))

    def _compute(self, work: _Work) -> torch.Tensor:
        distributed.broadcast_object_list([work], src=LEADER, group=self._control)
        hidden_states = self.runner.run_layers(work.step, work.block_copies)
        return self.runner.compute_logits(hidden_states, work.step)


def follow(runner: ModelRunner, control: distributed.ProcessGroup) -> None:
    """Compute what the leader says, for ever; raises once the leader is gone."""
    while True:
        message: list[_Work | None] = [None]  # filled by the call below
        distributed.broadcast_object_list(message, src=LEADER, group=control)
        [work] = message
        assert work is not None, "the leader sent nothing"
        runner.run_layers(work.step, work.block_copies)
