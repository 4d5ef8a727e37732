"""The devices of a network: which holds each layer, and copies of inputs to them."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_ALIGNMENT = 16  # bytes: kernels read vectors of that size
_IN_LAYER = re.compile(r"transformer\.h\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class DeviceMap:
    main: torch.device  # holds everything but the decoder layers in `layers`
    layers: Mapping[range, torch.device] = field(default_factory=dict)

    def of_layer(self, layer: int) -> torch.device:
        return next((device for own, device in self.layers.items() if layer in own), self.main)

    def of_parameter(self, name: str) -> torch.device:
        in_layer = _IN_LAYER.match(name)
        return self.of_layer(int(in_layer[1])) if in_layer else self.main


def upload(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[torch.Tensor]:
    """Return the arrays as tensors on `device`; on a CPU they share the arrays' memory.

    A GPU takes them in one copy. From pinned memory, because other memory makes the host wait until
    all work that the GPU has in its queue is done. torch keeps pinned memory until it is copied.
    """
    if device.type != "cuda":
        return [torch.from_numpy(array).to(device) for array in arrays]
    padded = (-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays)
    *starts, size = accumulate(padded, initial=0)
    with current_device(device):
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    host = pinned.numpy()
    for array, start in zip(arrays, starts, strict=True):
        host[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    copied = pinned.to(device, non_blocking=True)
    return [
        copied[start : start + array.nbytes].view(_dtype(array)).view(array.shape)
        for array, start in zip(arrays, starts, strict=True)
    ]


def current_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one of this thread, and do nothing for a CPU.

    Pinned memory, graphs and kernels that torch does not launch belong to the current GPU, wherever
    the tensors are.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _dtype(array: NDArray[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
