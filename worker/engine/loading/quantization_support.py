"""Which kinds of 8-bit weights a device, a dtype and this installation allow."""

from importlib.util import find_spec

import torch

from worker.model.layers.quantization import Quantization

FP8_CAPABILITY = (8, 9)  # of a GPU that multiplies 8-bit floats: Ada, Hopper and later


def check_quantization(
    quantization: Quantization | None, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ValueError where such layers cannot be had."""
    check_combination(quantization, dtype=dtype, device=device)
    if quantization is Quantization.FP8:
        _check_float8(device)


def check_combination(
    quantization: Quantization | None, *, dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ValueError for what goes together on no device of its kind; none need be there."""
    match quantization:
        case Quantization.INT8:
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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
