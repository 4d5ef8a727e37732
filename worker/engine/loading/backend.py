"""Which runtime computes the network, and whether this model, device and machine allow it."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import torch

from worker.engine.config import EngineConfig
from worker.model.config import ModelConfig
from worker.model.layers.quantization import Quantization

CPU_INFO = Path("/proc/cpuinfo")


class Executor(StrEnum):
    AUTO = "auto"  # the fastest that can
    TORCH = "torch"  # anywhere
    OPENVINO = "openvino"  # on CPUs, in float32; an optional extra


def choose_executor(
    wanted: Executor,
    model_config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization | None,
    config: EngineConfig,
    serves_adapters: bool = False,
) -> Executor:
    """TORCH or OPENVINO. Raises ValueError when OpenVINO is asked for and cannot do it."""
    if wanted is Executor.TORCH:
        return wanted
    obstacle = _openvino_obstacle(model_config, dtype, device, config, serves_adapters)
    is_slow = quantization is Quantization.INT8 and not _has_vnni()
    if obstacle is None and wanted is Executor.AUTO and is_slow:
        return Executor.TORCH  # OpenVINO would compute with the 8-bit weights in float32
    if obstacle is None:
        return Executor.OPENVINO
    if wanted is Executor.OPENVINO:
        raise ValueError(f"executor openvino cannot run this: {obstacle}")
    return Executor.TORCH


def _openvino_obstacle(
    model_config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    config: EngineConfig,
    serves_adapters: bool,
) -> str | None:
    if serves_adapters:
        return "its graph has no room for adapters beside the weights; merge them"
    if find_spec("openvino") is None:
        return "the package openvino is not installed"
    try:
        from worker.model.openvino_falcon import BLOCK_SIZE, why_unsupported
    except ImportError as error:
        return f"this openvino is not one that it knows: {error}"
    if device.type != "cpu" or dtype != torch.float32:
        return f"it needs device cpu and dtype float32, not {device} and {_name(dtype)}"
    if config.block_size != BLOCK_SIZE:
        return f"block_size must be {BLOCK_SIZE}, not {config.block_size}"
    return why_unsupported(model_config)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _has_vnni() -> bool:
    """Whether the CPU multiplies 8-bit numbers natively; yes where there is no telling."""
    return not CPU_INFO.exists() or "vnni" in CPU_INFO.read_text()
