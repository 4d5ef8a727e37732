"""Measuring steps: what is measured, for how long, and on real runners."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from worker.engine import Engine, Executor
from worker.engine.execution.packed_batch import PackedStep
from worker.engine.loading.calibration import BUDGET_S, measure_steps
from worker.engine.loading.step_limits import StepTimes
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.config import ModelConfig

BLOCK_SIZE = 32


@dataclass
class Machine:
    """A machine on which a step takes `fixed_s` and `token_s` per token, in CPU time.

    `slowdown` is the wall time per CPU time: other processes run.
    """

    fixed_s: float
    token_s: float
    num_threads: int = 2
    slowdown: float = 1.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    steps: list[tuple[int, int]] = field(default_factory=list)  # sequences, tokens

    def compute(self, step: PackedStep) -> None:
        num_tokens = len(step.token_ids)
        self.steps.append((len(step.past_lens), num_tokens))
        seconds = self.fixed_s + self.token_s * num_tokens
        self.wall_s += self.slowdown * seconds
        self.cpu_s += self.num_threads * seconds

    def measure(self, most_rows: int = 128) -> StepTimes:
        return measure_steps(
            self.compute,
            block_size=BLOCK_SIZE,
            most_rows=most_rows,
            num_threads=self.num_threads,
            clock=lambda: self.wall_s,
            cpu_clock=lambda: self.cpu_s,
        )


def test_steps_are_measured_up_to_the_first_that_is_too_long() -> None:
    times = Machine(0.010, 0.001).measure()
    assert list(times.decode_s) == [1, 8, 16, 32, 64, 128]
    assert times.decode_s[64] == pytest.approx(0.074)
    assert times.prompt_token_s == pytest.approx(0.001)
    assert list(Machine(0.010, 0.010).measure().decode_s) == [1, 8, 16]


def test_no_more_rows_are_measured_than_may_run() -> None:
    machine = Machine(0.010, 0.001)
    assert list(machine.measure(most_rows=20).decode_s) == [1, 8, 16]
    assert max(rows for rows, _ in machine.steps) <= 17  # with the sequence of the chunk


def test_other_processes_do_not_change_the_times() -> None:
    quiet, busy = Machine(0.010, 0.001), Machine(0.010, 0.001, slowdown=5.0)
    for name, seconds in quiet.measure().decode_s.items():
        assert busy.measure().decode_s[name] == pytest.approx(seconds)


@pytest.mark.parametrize("fixed_s", [0.001, 0.1, 0.5, 2.0])
def test_measuring_ends_soon_after_its_budget(fixed_s: float) -> None:
    machine = Machine(fixed_s, 0.05 * fixed_s)
    machine.measure()
    longest = fixed_s * (1 + 0.05 * 64)
    assert machine.wall_s <= BUDGET_S + 3 * longest


def test_rows_that_the_budget_leaves_out_cost_as_much_as_prompt_tokens() -> None:
    times = Machine(0.4, 0.002, slowdown=5.0).measure()
    assert times.decode_s[128] == pytest.approx(0.4 + 128 * 0.002)


def test_a_chunk_that_noise_hides_still_costs_time() -> None:
    assert Machine(0.010, 0.0).measure().prompt_token_s > 0


@pytest.mark.parametrize("executor", [Executor.TORCH, Executor.OPENVINO])
def test_a_loaded_model_runs_with_limits_from_its_own_steps(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if executor is Executor.OPENVINO:
        pytest.importorskip("openvino")
    monkeypatch.setattr(ModelConfig, "is_small", False)
    threads = torch.get_num_threads()
    engine = Engine.from_pretrained(str(bundled_checkpoint()), dtype="float32", executor=executor)
    limits = engine.load_report.limits
    assert limits is not None
    assert limits.config == engine.config
    assert "ms by decoding rows 1:" in limits.reason
    assert engine.config.max_rows in (8, 16, 32, 64, 128)
    assert torch.get_num_threads() == threads


def test_a_small_model_starts_without_measuring() -> None:
    engine = Engine.from_pretrained(str(bundled_checkpoint()))
    assert engine.config == replace(engine.config, max_rows=32, max_step_tokens=512)
    fields = engine.load_report.to_log()
    assert fields["max_rows"] == 32
    assert "not measured" in str(fields["limits"])
    assert fields["threads"] == 1
