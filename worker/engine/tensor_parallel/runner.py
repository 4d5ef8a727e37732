"""Runs a step's plan on several processes that hold a part of the network each.

The first one leads: it tells the others what to compute, and samples. They follow until it ends.
"""

from dataclasses import dataclass
from functools import partial

import torch

from worker.engine.execution.packed_batch import PackedStep
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.scheduling.step_plan import BlockCopy, StepPlan
from worker.engine.tensor_parallel.processes import Followers
from worker.engine.tensor_parallel.worker_process import LeaderLink

LEADER = 0


@dataclass(frozen=True, slots=True)
class _Work:
    step: PackedStep
    block_copies: list[BlockCopy]


class LeadingRunner:
    """What the engine of the leading process runs its plans on.

    The work goes to the followers over their pipes, sums of tensors through torch's default group.
    Once a process is lost, every pass raises ProcessLost, the one that waits for it too.
    """

    def __init__(self, runner: ModelRunner, followers: Followers) -> None:
        self.num_blocks = runner.num_blocks
        self.runner = runner
        self.followers = followers

    def forward(self, plan: StepPlan) -> torch.Tensor:
        step = PackedStep.of(plan, self.runner.block_size)
        return self._compute(_Work(step, plan.block_copies))

    def warm_up(self) -> None:
        """As `ModelRunner.warm_up`, in all processes."""
        for step in self.runner.warm_up_steps():
            self._compute(_Work(step, []))

    def _compute(self, work: _Work) -> torch.Tensor:
        return self.followers.run(partial(self._lead, work))

    def _lead(self, work: _Work) -> torch.Tensor:
        hidden_states = self._run_layers(work)
        logits = self.runner.compute_logits(hidden_states, work.step)
        if logits.is_cuda:  # sums of NCCL block the stream: here, not whoever reads the logits
            torch.cuda.current_stream(logits.device).synchronize()
        return logits

    def _run_layers(self, work: _Work) -> torch.Tensor:
        """A failure leaves others in a sum, which a later step's sum must not complete."""
        try:
            self.followers.send(work)
            return self.runner.run_layers(work.step, work.block_copies)
        except Exception as error:
            self.followers.give_up(f"part {LEADER} failed in a step: {error}")
            raise


def follow(runner: ModelRunner, leader: LeaderLink) -> None:
    """Compute what the leader sends until it ends."""
    while True:
        work: _Work = leader.receive()
        runner.run_layers(work.step, work.block_copies)
