"""Run a step's plan on the processes of a tensor-parallel network, each with its part of it.

Rank 0, the driver, sends every step to the other ranks and samples. They compute until it ends.
"""

from dataclasses import dataclass
from functools import partial

import torch

from worker.engine.config import EngineConfig
from worker.engine.execution.packed_batch import PackedStep
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.scheduling.step_plan import BlockCopy, StepPlan
from worker.engine.tensor_parallel.processes import RankProcesses
from worker.engine.tensor_parallel.rank_process import DriverLink

DRIVER = 0


@dataclass(frozen=True, slots=True)
class _Work:
    step: PackedStep
    block_copies: list[BlockCopy]


class TensorParallelRunner:
    """The runner of the driver's engine.

    Steps go to the other ranks over their pipes; sums of tensors go through torch's default group.
    Once a process is lost, every forward pass raises ProcessLost, also if it waits already.
    """

    def __init__(self, runner: ModelRunner, processes: RankProcesses) -> None:
        self.num_blocks = runner.num_blocks
        self.runner = runner
        self.processes = processes

    def forward(self, plan: StepPlan) -> torch.Tensor:
        step = PackedStep.of(plan, self.runner.block_size)
        return self._compute(_Work(step, plan.block_copies))

    def warm_up(self, config: EngineConfig) -> None:
        """Run the steps of `ModelRunner.warm_up` in all processes."""
        for step in self.runner.warm_up_steps(config):
            self._compute(_Work(step, []))

    def _compute(self, work: _Work) -> torch.Tensor:
        return self.processes.run(partial(self._compute_logits, work))

    def _compute_logits(self, work: _Work) -> torch.Tensor:
        hidden_states = self._run_layers(work)
        logits = self.runner.compute_logits(hidden_states)
        if logits.is_cuda:  # sums of NCCL block the stream: wait here, not where logits are read
            torch.cuda.current_stream(logits.device).synchronize()
        return logits

    def _run_layers(self, work: _Work) -> torch.Tensor:
        """Run the layers on all ranks; a failure here stops every process.

        The other ranks may wait in a sum, which a sum of a later step must not complete.
        """
        try:
            self.processes.send(work)
            return self.runner.run_layers(work.step, work.block_copies)
        except Exception as error:
            self.processes.fail_after_notice(f"rank {DRIVER} failed in a step: {error}")
            raise


def run_steps(runner: ModelRunner, driver: DriverLink) -> None:
    """Compute the steps that the driver sends, until it ends."""
    while True:
        work: _Work = driver.receive()
        runner.run_layers(work.step, work.block_copies)
