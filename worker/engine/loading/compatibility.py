"""Which executors and which quantized weights a model, its device and this installation allow."""

import platform
from importlib.util import find_spec
from pathlib import Path

import torch

from worker.engine.config import EngineConfig
from worker.engine.execution.executor import Executor
from worker.model.config import ModelConfig
from worker.model.layers.quantization import GROUP_SIZE, Quantization

CPU_INFO = Path("/proc/cpuinfo")
FP8_CAPABILITY = (8, 9)  # of a GPU that multiplies 8-bit floats: Ada, Hopper and later


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
    """Return TORCH or OPENVINO. Raises ValueError if `wanted` is OPENVINO and cannot run it."""
    if wanted is Executor.TORCH:
        return wanted
    obstacle = _openvino_obstacle(
        model_config, dtype, device, quantization, config, serves_adapters
    )
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
    quantization: Quantization | None,
    config: EngineConfig,
    serves_adapters: bool,
) -> str | None:
    if serves_adapters:
        return "it cannot serve adapters beside the weights; merge them"
    if find_spec("openvino") is None:
        return "the package openvino is not installed"
    try:
        from worker.model.openvino_falcon import BLOCK_SIZE, why_unsupported
    except ImportError as error:
        return f"the installed openvino is not supported: {error}"
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return f"it needs device cpu and dtype float32 or bfloat16, not {device} and {_name(dtype)}"
    if dtype == torch.bfloat16 and not _cpu_has("avx512_bf16", "amx_bf16"):
        return "it multiplies bfloat16 only on CPUs with avx512_bf16 or amx_bf16"
    if dtype == torch.bfloat16 and quantization:
        return f"with quantization {quantization} it needs dtype float32, not bfloat16"
    if config.block_size != BLOCK_SIZE:
        return f"block_size must be {BLOCK_SIZE}, not {config.block_size}"
    if quantization is Quantization.INT4:
        return why_unsupported(model_config) or _int4_obstacle(model_config)
    return why_unsupported(model_config)


def _int4_obstacle(model_config: ModelConfig) -> str | None:
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"it multiplies 4-bit weights only on x86-64, not {platform.machine()}"
    sizes = (model_config.hidden_size, model_config.ffn_hidden_size)
    if any(size % GROUP_SIZE for size in sizes):
        return (
            f"with quantization int4 hidden_size {sizes[0]} and ffn_hidden_size {sizes[1]} must be "
            f"multiples of {GROUP_SIZE}"
        )
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def multiplies_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 natively (AVX-512, AMX, Arm); False if unknown."""
    return _cpu_has("bf16")


def _has_vnni() -> bool:
    """Return whether the CPU multiplies 8-bit numbers natively; True if unknown."""
    return not CPU_INFO.exists() or _cpu_has("vnni")


def _cpu_has(*flags: str) -> bool:
    """Return whether the CPU states a feature with one of these words in its name."""
    text = CPU_INFO.read_text() if CPU_INFO.exists() else ""
    return any(flag in text for flag in flags)


def check_quantization(
    quantization: Quantization | None, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ValueError if the device, the dtype or this installation does not allow it."""
    check_combination(quantization, dtype=dtype, device=device)
    if quantization is Quantization.FP8:
        _check_float8(device)


def check_combination(
    quantization: Quantization | None, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ValueError if no device of this kind allows it; the machine need not have one."""
    match quantization:
        case Quantization.INT8 | Quantization.INT4:
            _require(quantization, "cpu", torch.float32, device=device, dtype=dtype)
        case Quantization.FP8:
            _require(quantization, "cuda", torch.bfloat16, device=device, dtype=dtype)


def _require(
    quantization: Quantization,
    device_type: str,
    needed: torch.dtype,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    if device.type != device_type or dtype != needed:
        raise ValueError(
            f"quantization {quantization} needs device {device_type} and dtype {_name(needed)}, "
            f"not {device} and {_name(dtype)}"
        )


def _check_float8(device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device)
    if capability < FP8_CAPABILITY:
        raise ValueError(
            f"quantization fp8 needs a GPU of compute capability {_version(FP8_CAPABILITY)} "
            f"or above, {device} has {_version(capability)}"
        )
    if find_spec("torchao") is None:
        raise ValueError(
            "quantization fp8 needs the package torchao, which is not installed: "
            "it is the extra falconer[quantization]"
        )


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
