"""Sizes of what `bench.gpu` measures: published sizes, or small sizes for a CPU."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from worker.model.checkpoint.random_checkpoint import config_fields, write_random_checkpoint
from worker.model.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Lengths in tokens, and sizes of the arrays that measure the device."""

    full_size: bool
    rows: tuple[int, ...]  # of decoding steps
    context: int  # of each row
    chunk: int  # of a prompt
    checked_layers: int
    repeats: int  # the median counts
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
    """Return the dtype that a worker chooses: the published models are in bfloat16."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def ensure_checkpoint(folder: Path, scale: Scale) -> Path:
    """Return the folder of a random checkpoint, which is written if it does not exist.

    The published size takes 14 GB and some minutes. An incomplete checkpoint has another name, so
    that the next run writes it again.
    """
    path = folder / ("7b" if scale.full_size else "7b-small")
    if not path.is_dir():
        dtype = torch.bfloat16 if scale.full_size else torch.float32
        partial = path.with_name(f"{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        write_random_checkpoint(partial, like="7b", full_size=scale.full_size, dtype=dtype)
        partial.rename(path)
    return path
