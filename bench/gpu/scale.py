"""How large everything is that `bench.gpu` measures: as published, or small enough for any CPU."""

from dataclasses import dataclass

import torch

from worker.model.checkpoint.random_checkpoint import config_fields
from worker.model.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Lengths in tokens. `probe_bytes` and `probe_width` are what the device itself is tried on."""

    full_size: bool
    rows: tuple[int, ...]  # of the decode steps
    context: int  # of each row
    chunk: int  # of a prompt
    checked_layers: int
    repeats: int  # of which the median counts
    num_requests: int  # of the mixed workload
    profiled_rows: int
    probe_bytes: int
    probe_width: int

    def model_config(self, like: str) -> ModelConfig:
        return ModelConfig.from_dict(config_fields(like, full_size=self.full_size))


PUBLISHED = Scale(
    full_size=True,
    rows=(1, 8, 64, 256),
    context=512,
    chunk=2048,
    checked_layers=2,
    repeats=20,
    num_requests=64,
    profiled_rows=64,
    probe_bytes=2**31,
    probe_width=8192,
)
SMALL = Scale(
    full_size=False,
    rows=(1, 4),
    context=40,
    chunk=64,
    checked_layers=2,
    repeats=3,
    num_requests=4,
    profiled_rows=2,
    probe_bytes=2**24,
    probe_width=256,
)


def serving_dtype(device: torch.device) -> torch.dtype:
    """What a worker takes by itself: the published models are in bfloat16."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16
