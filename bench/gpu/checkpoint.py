"""The random falcon-7b on disk that `bench.gpu` loads: written once, whole or not at all."""

import shutil
from pathlib import Path

import torch

from bench.gpu.scale import Scale
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint


def ensure_checkpoint(folder: Path, scale: Scale) -> Path:
    """Of the published size it takes 14 GB and some minutes.

    An interrupted one never has the name of a finished one: the next run begins anew.
    """
    path = folder / ("7b" if scale.full_size else "7b-small")
    if not path.is_dir():
        dtype = torch.bfloat16 if scale.full_size else torch.float32
        partial = path.with_name(f"{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        write_random_checkpoint(partial, like="7b", full_size=scale.full_size, dtype=dtype)
        partial.rename(path)
    return path
