"""What the device can do at best: memory bandwidth and matrix products, measured, not looked up."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.gpu.scale import Scale, serving_dtype


@dataclass(frozen=True, slots=True)
class Card:
    """Rates per second of the device that all floors are reckoned with."""

    name: str
    bytes_per_s: float  # read and written
    flop_per_s: float  # in the dtype that is served


def measure_card(device: torch.device, scale: Scale) -> Card:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Card(name, measure_bandwidth(device, scale), measure_matrix_rate(device, scale))


def measure_bandwidth(device: torch.device, scale: Scale) -> float:
    """Of one large copy, whose bytes are both read and written."""
    source = torch.zeros(scale.probe_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = median_s(lambda: target.copy_(source), device, scale.repeats)
    return 2 * scale.probe_bytes / seconds


def measure_matrix_rate(device: torch.device, scale: Scale) -> float:
    """Of one large square product."""
    width = scale.probe_width
    left, right = (
        torch.randn(width, width, device=device, dtype=serving_dtype(device)) for _ in range(2)
    )
    return 2 * width**3 / median_s(lambda: left @ right, device, scale.repeats)


def median_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call, from its launch until the device is done with it."""
    work()  # loads kernels, allocates
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait for what was launched; a CPU has always done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
