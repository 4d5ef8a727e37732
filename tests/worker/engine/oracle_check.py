"""Runs workloads and compares every result with the oracle; distinguishes ties from errors."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.worker.engine.comparison import compare
from tests.worker.engine.oracle import Oracle, make_oracle, perturbed
from tests.worker.engine.workload import Result, ScheduledRequest, Workload, run_all, to_source
from worker.engine import Engine, EngineConfig, Executor, SamplingParams
from worker.engine.execution.torch_runner import ModelRunner, Runner
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import load_runner
from worker.engine.scheduling.step_plan import StepPlan
from worker.model.config import ModelConfig
from worker.model.falcon import FalconForCausalLM
from worker.model.tokenizer.tokenizer_files import load_tokenizer

NUM_PERTURBATIONS = 8
NUM_ENGINE_PERTURBATIONS = 32  # one edge of a distribution may decide a sampled token

# For the line that `reproduction` returns.
__all__ = [
    "EngineConfig",
    "Executor",
    "OracleCheck",
    "SamplingParams",
    "ScheduledRequest",
    "Workload",
    "replay",
    "reproduction",
]


@dataclass
class OracleCheck:
    """Compares results with the oracles of all styles, and counts what it has compared."""

    oracles: dict[str, Oracle]
    num_compared: int = 0
    num_preemptions: int = 0
    num_prefix_hit_tokens: int = 0
    # Differences that vanish when the oracle's logits move by 1e-5, by request: rounding, which
    # differs between a batch and a single row, decided between equals.
    ties: dict[str, str] = field(default_factory=dict)
    _runners: dict[tuple[str, EngineConfig, Executor], Runner] = field(default_factory=dict)
    _models: dict[str, FalconForCausalLM] = field(default_factory=dict)  # for executor torch

    def engine(
        self, style: str, config: EngineConfig, executor: Executor = Executor.TORCH
    ) -> Engine:
        """Return a new engine; its KV cache still holds what an earlier one left there."""
        path = self.oracles[style].path
        if (style, config, executor) not in self._runners:
            self._runners[style, config, executor] = self._make_runner(style, config, executor)
        return Engine(
            runner=self._runners[style, config, executor],
            tokenizer=load_tokenizer(path),
            model_config=ModelConfig.from_checkpoint(path),
            config=config,
        )

    def _make_runner(self, style: str, config: EngineConfig, executor: Executor) -> Runner:
        if executor is Executor.TORCH and style in self._models:
            assert config.num_blocks is not None
            return ModelRunner.with_cache(
                self._models[style], num_blocks=config.num_blocks, block_size=config.block_size
            )
        path = str(self.oracles[style].path)
        options = LoadOptions(path, dtype="float32", executor=executor, config=config)
        runner = load_runner(options).runner
        if isinstance(runner, ModelRunner):
            self._models[style] = runner.model
        return runner

    def check(self, workload: Workload) -> None:
        """Run a workload; raise AssertionError at the first difference from the oracle."""
        engine = self.engine(workload.style, workload.config, workload.executor)
        requests = tuple(_with_logprobs(scheduled) for scheduled in workload.requests)
        scheduler = engine.scheduler

        def preempt(step: int) -> None:
            if step in workload.preempt_at and scheduler.running:
                scheduler.preempt(scheduler.running[-1])

        results = run_all(engine, requests, preempt)
        self.num_preemptions += engine.num_preemptions
        self.num_prefix_hit_tokens += engine.num_prefix_hit_tokens
        for scheduled, result in zip(requests, results, strict=True):
            self.compare(workload.style, scheduled, result)

    def compare(self, style: str, scheduled: ScheduledRequest, result: Result) -> None:
        """Raise AssertionError if a result differs from the oracle's."""
        oracle = self.oracles[style]
        try:
            compare(oracle, scheduled, result)
        except AssertionError as difference:
            perturbations = range(NUM_PERTURBATIONS)
            if not any(_holds_perturbed(oracle, scheduled, result, seed) for seed in perturbations):
                raise
            self.ties[to_source(scheduled)] = str(difference)
        self.num_compared += 1

    def is_tie(
        self, style: str, config: EngineConfig, scheduled: ScheduledRequest, result: Result
    ) -> bool:
        """Return whether a request alone, with logits moved by 1e-5, gets the same result.

        For beam sampling, where transformers uses other random numbers.
        """
        for seed in range(NUM_ENGINE_PERTURBATIONS):
            engine = self.engine(style, config)
            engine.runner = _PerturbedRunner(engine.runner, seed)
            if run_all(engine, [scheduled])[0].text == result.text:
                self.ties[to_source(scheduled)] = "another sample"
                return True
        return False


class _PerturbedRunner:
    """Adds random numbers up to `size` to the logits of another runner."""

    def __init__(self, runner: Runner, seed: int, size: float = 1e-5) -> None:
        self.num_blocks = runner.num_blocks
        self._runner = runner
        self._generator = torch.Generator().manual_seed(seed)
        self._size = size

    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = self._runner.forward(plan)
        return logits + (torch.rand(logits.shape, generator=self._generator) * 2 - 1) * self._size


def _with_logprobs(scheduled: ScheduledRequest) -> ScheduledRequest:
    return replace(scheduled, params=replace(scheduled.params, logprobs=True))


def _holds_perturbed(
    oracle: Oracle, scheduled: ScheduledRequest, result: Result, seed: int
) -> bool:
    with perturbed(oracle.model, seed):
        try:
            compare(oracle, scheduled, result)
        except AssertionError:
            return False
    return True


def replay(workload: Workload) -> None:
    """Run and check a workload on new checkpoints: for the line that a failing test prints."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        oracle = make_oracle(Path(folder) / "model", workload.style)
        OracleCheck({workload.style: oracle}).check(workload)


def reproduction(workload: Workload) -> str:
    return f"from tests.worker.engine.oracle_check import *; replay({to_source(workload)})"
