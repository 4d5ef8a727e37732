"""Profile a decoding step: its kernels, and the share of time in which the device is idle."""

import time
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu.card import synchronize
from bench.gpu.scale import Scale
from bench.workloads import FIRST_WORD_ID
from worker.engine import Engine, Request, SamplingParams

NUM_STEPS = 10  # timed, and the same number profiled
NUM_KERNELS = 15  # in the table


@dataclass(frozen=True, slots=True)
class Kernel:
    """Total of a kernel, or on a CPU an operator, over all profiled steps."""

    name: str
    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Time of steps without a profiler, and of the device in equally many profiled steps."""

    wall_s: float
    busy_s: float | None  # None on a CPU
    kernels: list[Kernel]

    @property
    def idle_share(self) -> float | None:
        return None if self.busy_s is None else 1 - self.busy_s / self.wall_s


def profile_decoding(
    engine: Engine,
    scale: Scale,
    device: torch.device,
    *,
    num_rows: int | None = None,
    params: SamplingParams | None = None,
) -> Profile:
    """Profile steps in which all rows decode, sampling and text included.

    `num_rows` is `scale.profiled_rows` if not given; `params` need no length.

    The profiler slows down the host but not the kernels, so wall time is measured without it.
    """
    num_rows = num_rows or scale.profiled_rows
    params = replace(params or SamplingParams(), max_new_tokens=scale.context)
    _start_decoding(engine, num_rows, scale.context, params)
    wall_s = _time_steps(engine, device)
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as traced:
        _time_steps(engine, device)
    for number in range(num_rows):
        engine.abort(str(number))
    return _read(traced, wall_s, on_gpu=on_gpu)


def _start_decoding(engine: Engine, num_rows: int, context: int, params: SamplingParams) -> None:
    """Add prompts that differ in their first token, so that they share no blocks."""
    for number in range(num_rows):
        first = FIRST_WORD_ID + number
        prompt_ids = list(range(first, first + context))
        engine.add(Request(request_id=str(number), prompt_token_ids=prompt_ids, params=params))
    while not engine.last_step.num_rows == engine.last_step.num_tokens == num_rows:
        engine.step()


def _time_steps(engine: Engine, device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    for _ in range(NUM_STEPS):
        engine.step()
    synchronize(device)
    return time.perf_counter() - started


def _read(traced: profile, wall_s: float, *, on_gpu: bool) -> Profile:
    """Return each kernel's own time; on a GPU without time of the host."""
    where = "CUDA" if on_gpu else "CPU"
    events: Any = traced.key_averages()  # without types
    own_us = attrgetter("self_device_time_total" if on_gpu else "self_cpu_time_total")
    kernels = [
        Kernel(event.key, event.count, own_us(event) / 1e6)
        for event in events
        if event.device_type.name == where
    ]
    kernels.sort(key=lambda kernel: kernel.seconds, reverse=True)
    busy_s = sum(kernel.seconds for kernel in kernels) if on_gpu else None
    return Profile(wall_s, busy_s, kernels[:NUM_KERNELS])
