"""Plays companies and has every guest judged; knows how to tell a tie from a mistake."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.worker.engine.company import Company, Guest, Result, play, spell
from tests.worker.engine.oracle import Judge, make_judge, nudged
from tests.worker.engine.verdict import check
from worker.engine import Engine, EngineConfig, Executor, SamplingParams
from worker.engine.execution.torch_runner import Runner
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import LoadedRunner, load_runner
from worker.engine.scheduling.step_plan import StepPlan
from worker.model.tokenizer.tokenizer_files import load_tokenizer

NUM_NUDGES = 8
NUM_OWN_NUDGES = 32  # of the engine, whose draws a single edge of a distribution may decide

# For the line that `reproduction` spells.
__all__ = [
    "Company",
    "Court",
    "EngineConfig",
    "Executor",
    "Guest",
    "SamplingParams",
    "replay",
    "reproduction",
]


@dataclass
class Court:
    """The judges of all styles, and what the trials so far were about.

    `ties` are differences that vanish when transformers' logits move by 1e-5: there rounding,
    which is not the same in a batch and in a single row, decided between equals.
    """

    judges: dict[str, Judge]
    num_judged: int = 0
    num_preemptions: int = 0
    num_prefix_hit_tokens: int = 0
    ties: dict[str, str] = field(default_factory=dict)
    _loaded: dict[tuple[str, EngineConfig, Executor], LoadedRunner] = field(default_factory=dict)

    def engine(
        self, style: str, config: EngineConfig, executor: Executor = Executor.TORCH
    ) -> Engine:
        """A new engine; its KV cache still holds what an earlier one of its kind left there."""
        path = self.judges[style].path
        if (style, config, executor) not in self._loaded:
            self._loaded[style, config, executor] = load_runner(
                LoadOptions(str(path), dtype="float32", executor=executor, config=config)
            )
        loaded = self._loaded[style, config, executor]
        return Engine(
            runner=loaded.runner,
            tokenizer=load_tokenizer(path),
            model_config=loaded.model_config,
            config=config,
        )

    def hear(self, company: Company) -> None:
        """Play the company and judge each guest; AssertionError tells the first difference."""
        engine = self.engine(company.style, company.config, company.executor)
        guests = tuple(_outspoken(guest) for guest in company.guests)
        scheduler = engine._scheduler

        def upset(step: int) -> None:
            if step in company.upsets and scheduler.running:
                scheduler._preempt(scheduler.running[-1])

        results = play(engine, guests, upset)
        self.num_preemptions += scheduler.num_preemptions
        self.num_prefix_hit_tokens += engine._block_manager.num_prefix_hit_tokens
        for guest, result in zip(guests, results, strict=True):
            self.judge(company.style, guest, result)

    def judge(self, style: str, guest: Guest, result: Result) -> None:
        """Raise AssertionError where the result is not what transformers gives this guest."""
        judge = self.judges[style]
        try:
            check(judge, guest, result)
        except AssertionError as difference:
            if not any(_holds_nudged(judge, guest, result, seed) for seed in range(NUM_NUDGES)):
                raise
            self.ties[spell(guest)] = str(difference)
        self.num_judged += 1

    def is_tie(self, style: str, config: EngineConfig, guest: Guest, result: Result) -> bool:
        """Whether a guest is told the same when it is alone and its logits move by 1e-5.

        For beam sampling, whose draws transformers makes from other random numbers.
        """
        for seed in range(NUM_OWN_NUDGES):
            engine = self.engine(style, config)
            engine._runner = _NudgedRunner(engine._runner, seed)
            if play(engine, [guest])[0].told == result.told:
                self.ties[spell(guest)] = "another draw"
                return True
        return False


class _NudgedRunner:
    """`nudged` for the engine."""

    def __init__(self, runner: Runner, seed: int, size: float = 1e-5) -> None:
        self.num_blocks = runner.num_blocks
        self._runner = runner
        self._generator = torch.Generator().manual_seed(seed)
        self._size = size

    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = self._runner.forward(plan)
        return logits + (torch.rand(logits.shape, generator=self._generator) * 2 - 1) * self._size


def _outspoken(guest: Guest) -> Guest:
    """The same guest, asking for log-probabilities as well."""
    return replace(guest, params=replace(guest.params, logprobs=True))


def _holds_nudged(judge: Judge, guest: Guest, result: Result, seed: int) -> bool:
    with nudged(judge.model, seed):
        try:
            check(judge, guest, result)
        except AssertionError:
            return False
    return True


def replay(company: Company) -> None:
    """Play and judge a company on new checkpoints: what a failing test asks to paste."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        Court({company.style: make_judge(Path(folder) / "model", company.style)}).hear(company)


def reproduction(company: Company) -> str:
    return f"from tests.worker.engine.court import *; replay({spell(company)})"
