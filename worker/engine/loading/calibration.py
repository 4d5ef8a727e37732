"""Measure the steps of a loaded model for the limits that no setting gives.

Takes about 4 s at most on a quiet machine, or three steps where these take longer. A wrong
measurement costs speed and changes no result.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import torch

from worker.engine.config import EngineConfig
from worker.engine.execution.packed_batch import PackedStep
from worker.engine.execution.torch_runner import Runner
from worker.engine.loading.report import LimitChoice
from worker.engine.loading.step_limits import (
    CANDIDATE_ROWS,
    StepTimes,
    longest_decode_s,
    lower_to_defaults,
    lower_to_times,
)
from worker.model.config import ModelConfig
from worker.model.falcon import FalconForCausalLM

BUDGET_S = 3.0
_RUNS = 5  # of a step, of which the shortest counts
_LONGEST_RUNS_S = 0.3  # of a step: a longer one does not run again
_CONTEXT = 256  # tokens of each decoding row
_CHUNK_ROWS, _CHUNK_TOKENS = 16, 48
# Prompt tokens that take as long as a decoding step, at most: noise may hide the whole chunk.
_MOST_TOKENS_PER_STEP_TIME = 512


class MeasurableRunner(Runner, Protocol):
    """A runner of this process, whose steps can be timed."""

    def warm_up(self, config: EngineConfig) -> None: ...
    def compute(self, step: PackedStep) -> torch.Tensor: ...


def choose_limits(
    bounds: EngineConfig,
    model: FalconForCausalLM,
    make_runner: Callable[..., MeasurableRunner],
    *,
    num_threads: int,
    num_torch_threads: int,
) -> LimitChoice:
    """Lower the open limits of `bounds`. `make_runner` takes the argument `num_blocks`.

    A step runs on `num_threads`; torch, in the calling thread, on `num_torch_threads`. Steps are
    measured in a thread of their own, whose pool of OpenMP threads ends with it (decision 0006).
    """
    if known := known_limits(bounds, model.config, model.device):
        return known
    runner = make_runner(num_blocks=-(-_CONTEXT // bounds.block_size))
    with ThreadPoolExecutor(1) as executor:
        measure = partial(_measure, runner, bounds, num_threads=num_threads)
        times = executor.submit(measure, num_torch_threads=num_torch_threads).result()
    reason = f"{', '.join(sorted(bounds.open_limits))} by {times}"
    return LimitChoice(lower_to_times(bounds, times), reason)


def known_limits(
    bounds: EngineConfig, model_config: ModelConfig, device: torch.device
) -> LimitChoice | None:
    """Lower the open limits of `bounds` without a model; None if its steps must be measured."""
    if model_config.is_small or device.type != "cpu" or not bounds.open_limits:
        return fixed_limits(bounds, device, "for a small model")
    return None


def fixed_limits(bounds: EngineConfig, device: torch.device, condition: str) -> LimitChoice:
    """Lower the open limits of `bounds` without a measurement, under the named condition."""
    if not bounds.open_limits:
        return LimitChoice(bounds, "set")
    if device.type != "cpu":
        return LimitChoice(bounds, f"by device {device.type}")
    return LimitChoice(lower_to_defaults(bounds), f"not measured {condition}")


def _measure(
    runner: MeasurableRunner, bounds: EngineConfig, *, num_threads: int, num_torch_threads: int
) -> StepTimes:
    before = torch.get_num_threads()
    torch.set_num_threads(num_torch_threads)
    try:
        runner.warm_up(bounds)
        return measure_steps(
            runner.compute,
            block_size=bounds.block_size,
            most_rows=bounds.max_rows if "max_rows" in bounds.open_limits else _CHUNK_ROWS,
            num_threads=num_threads,
        )
    finally:
        torch.set_num_threads(before)  # also of threads that start later


def measure_steps(
    compute: Callable[[PackedStep], object],
    *,
    block_size: int,
    most_rows: int,
    num_threads: int,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> StepTimes:
    """Measure decoding steps of 1, 8, 16, … `most_rows` rows, and one with a chunk of a prompt.

    Stops at a step too long to be chosen. Once the budget is spent, a further row counts as much as
    a prompt token. Rows share the blocks of their context, so a step reads less of the KV cache
    than a real one: a few percent of its time.
    """
    stopwatch = _Stopwatch(compute, num_threads, clock, cpu_clock)
    decode_s = {1: stopwatch.shortest_s(_step(1, block_size))}
    candidates = [rows for rows in CANDIDATE_ROWS if rows <= most_rows]
    for rows in candidates:
        if rows <= _CHUNK_ROWS and stopwatch.has_time:
            decode_s[rows] = stopwatch.shortest_s(_step(rows, block_size))
    prompt_token_s = _prompt_token_s(stopwatch, decode_s, block_size)
    for rows in candidates:
        last = max(decode_s)
        if decode_s[last] > longest_decode_s(decode_s):
            break
        if rows > last and stopwatch.has_time:
            decode_s[rows] = stopwatch.shortest_s(_step(rows, block_size))
        elif rows > last:
            decode_s[rows] = decode_s[last] + (rows - last) * prompt_token_s
    return StepTimes(decode_s, prompt_token_s)


def _prompt_token_s(stopwatch: "_Stopwatch", decode_s: dict[int, float], block_size: int) -> float:
    """Return what each token of a chunk adds to the last decoding step.

    Both steps take turns, because a small error of either is a large one of their difference.
    """
    rows = max(decode_s)
    chunk = _step(rows, block_size, _CHUNK_TOKENS)
    alone_s, seconds = stopwatch.shortest_in_turn_s(_step(rows, block_size), chunk)
    decode_s[rows] = min(decode_s[rows], alone_s)
    added_s = (seconds - decode_s[rows]) / _CHUNK_TOKENS
    return max(added_s, decode_s[rows] / _MOST_TOKENS_PER_STEP_TIME)


class _Stopwatch:
    """Time steps by the process's CPU time, divided by the threads of a step.

    Other processes, such as a second worker that loads, change wall times several times over. The
    budget is wall time.
    """

    def __init__(
        self,
        compute: Callable[[PackedStep], object],
        num_threads: int,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float],
    ) -> None:
        self._compute = compute
        self._num_threads = num_threads
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._deadline = clock() + BUDGET_S

    @property
    def has_time(self) -> bool:
        return self._clock() < self._deadline

    def shortest_s(self, step: PackedStep) -> float:
        """Return the seconds of the shortest of a few runs."""
        [seconds] = self.shortest_in_turn_s(step)
        return seconds

    def shortest_in_turn_s(self, *steps: PackedStep) -> list[float]:
        """Run steps in turn, a few times; return the seconds of the shortest run of each."""
        rounds: list[list[float]] = []
        while not rounds or (len(rounds) < _RUNS and sum(map(sum, rounds)) < _LONGEST_RUNS_S):
            rounds.append([self._seconds(step) for step in steps])
        return [min(runs) for runs in zip(*rounds, strict=True)]

    def _seconds(self, step: PackedStep) -> float:
        started = self._cpu_clock()
        self._compute(step)
        return (self._cpu_clock() - started) / self._num_threads


def _step(num_rows: int, block_size: int, num_prompt_tokens: int = 0) -> PackedStep:
    starts, lengths = [_CONTEXT - 1] * num_rows, [1] * num_rows
    if num_prompt_tokens:
        starts, lengths = [*starts, 0], [*lengths, num_prompt_tokens]
    return PackedStep.on_shared_blocks(starts, lengths, block_size)
