"""Fake devices on a CPU: real values, and an error wherever two devices are mixed.

A tensor on device `meta:0`, `meta:1`, … holds its values on the CPU. Operations on tensors of one
device are computed; operations on tensors of several devices fail, as on GPUs. Only copies go from
one device to another.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")


class _FakeTensor(torch.Tensor):
    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor, device: torch.device) -> "_FakeTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=device,
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} on a fake device, outside of `fake_devices`")


class _Devices(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.num_crossings = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):  # as in inference mode
            with self:
                return func.decompose(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        own = [tensor for tensor in tensors if isinstance(tensor, _FakeTensor)]
        devices = {tensor.device for tensor in own}
        source = next(iter(devices), CPU)
        target = torch.device(kwargs.get("device") or source)
        if func is torch.ops.aten._to_copy.default:
            self.num_crossings += source != target
        elif len(devices) > 1 or (own and any(_is_real(tensor) for tensor in tensors)):
            raise RuntimeError(f"{func} mixes devices: {[str(t.device) for t in tensors]}")
        if kwargs.get("device") is not None and _is_fake(target):
            kwargs = kwargs | {"device": CPU}
        args, kwargs = tree_map(_values, (args, kwargs))
        known = {id(tensor.values): tensor for tensor in own}  # tensors changed in place

        def wrap(result: Any) -> Any:
            if not isinstance(result, torch.Tensor) or not _is_fake(target):
                return result
            if id(result) in known:
                return known[id(result)]
            return _FakeTensor(result, target)

        return tree_map(wrap, func(*args, **kwargs))


def _is_fake(device: torch.device) -> bool:
    return device.type == "meta" and device.index is not None


def _is_real(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is on the CPU; scalars do not count, they mix with any device."""
    return tensor.device == CPU and tensor.dim() > 0


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, _FakeTensor) else leaf


def _is_composite(func: Any) -> bool:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    name = func.name()
    return has_kernel(name, "CompositeImplicitAutograd") and not has_kernel(name, "CPU")


@contextmanager
def fake_devices() -> Iterator[_Devices]:
    """Make `meta:0`, `meta:1`, … devices that compute."""
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # `torch.tensor` makes tensors on the CPU, then copies them
    try:
        # From the first tensor on: views of tensors made outside inference mode are unsupported.
        with torch.inference_mode(), _Devices() as devices:
            yield devices
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
