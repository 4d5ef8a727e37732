"""From a checkpoint to a runner: device, dtype, weights and a KV cache that fits beside them.

Knows nothing of scheduling.
"""

import torch

from worker.engine.config import EngineConfig
from worker.engine.kv_budget import choose_num_blocks
from worker.engine.runner import ModelRunner
from worker.model.config import DTYPES, ModelConfig
from worker.model.kv_cache import KVCache
from worker.model.weights import load_model


def load_runner(
    source: str, *, dtype: str | None, device: str, config: EngineConfig
) -> tuple[ModelRunner, ModelConfig]:
    """Load a local folder or hub id; `dtype` None takes the checkpoint's.

    Raises CheckpointError, or ValueError for a dtype or device that cannot be had.
    """
    target = parse_device(device)
    model = load_model(source, dtype=parse_dtype(dtype), device=target)
    kv_dtype = model.lm_head.weight.dtype
    kv_cache = KVCache(
        num_layers=model.config.num_layers,
        num_blocks=choose_num_blocks(config, model.config, kv_dtype, target),
        block_size=config.block_size,
        num_kv_heads=model.config.num_kv_heads,
        head_dim=model.config.head_dim,
        dtype=kv_dtype,
        device=target,
    )
    return ModelRunner(model, kv_cache), model.config


def parse_dtype(name: str | None) -> torch.dtype | None:
    if name is not None and name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {name}")
    return None if name is None else DTYPES[name]


def parse_device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index.isdecimal() or name == kind):
        raise ValueError(f"device must be cpu, cuda or cuda:N, not {name}")
    num_devices = torch.cuda.device_count() if kind == "cuda" else 1
    if int(index or 0) >= num_devices:
        raise ValueError(f"device {name} is not there: this machine has {num_devices} of its kind")
    return torch.device(name)
