"""Measure the device's peak memory bandwidth and matrix throughput."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.gpu.scale import Scale, serving_dtype


@dataclass(frozen=True, slots=True)
class Card:
    """Peak rates per second of the device, from which floors are computed."""

    name: str
    copied_bytes_per_s: float  # bytes read plus bytes written
    read_bytes_per_s: float
    flop_per_s: float  # in the dtype of serving

    @property
    def bytes_per_s(self) -> float:
        """Return the higher bandwidth, because a sum may read slower than a copy."""
        return max(self.copied_bytes_per_s, self.read_bytes_per_s)


def measure_card(device: torch.device, scale: Scale) -> Card:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    copied, read = measure_bandwidths(device, scale)
    return Card(name, copied, read, measure_matrix_rate(device, scale))


def measure_bandwidths(device: torch.device, scale: Scale) -> tuple[float, float]:
    """Return bytes per second of one large copy and of one large sum, which only reads."""
    source = torch.zeros(scale.probe_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copy_s = median_s(lambda: target.copy_(source), device, scale.repeats)
    sum_s = median_s(source.sum, device, scale.repeats)
    return 2 * scale.probe_bytes / copy_s, scale.probe_bytes / sum_s


def measure_matrix_rate(device: torch.device, scale: Scale) -> float:
    """Return the operations per second of one large square product."""
    width = scale.probe_width
    left, right = (
        torch.randn(width, width, device=device, dtype=serving_dtype(device)) for _ in range(2)
    )
    return 2 * width**3 / median_s(lambda: left @ right, device, scale.repeats)


def median_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median seconds of a call until the device has finished it."""
    work()  # loads kernels and allocates memory
    times = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronize(device: torch.device) -> None:
    """Wait for launched kernels; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
