"""A pretended GPU: tensors of device `cuda` hold their values on the CPU.

Branches for `cuda` run with real values, operations that mix devices fail, and what a GPU would
cost its host is counted by source line: launches, copies in and out, and synchronizations.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.worker.engine.pretended_cuda.kernels import EMULATED, LAUNCHES, attend_varlen

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PROJECT = Path(__file__).parents[4]
HOPPER = (9, 0)
OTHER_GPU = 1  # current in a thread unless the worker changes it

# Operators that launch no kernel.
_VIEWS = frozenset(
    "_reshape_alias _unsafe_view alias as_strided detach detach_ diagonal expand lift_fresh "
    "permute select slice split split_with_sizes squeeze t transpose unbind unfold unsqueeze "
    "view".split()
)
_HOST_ONLY = _VIEWS | frozenset(
    "empty empty_like empty_strided is_same_size new_empty new_empty_strided resize_ "
    "result_type set_".split()
)
# Operators whose result has a size or a value that the host must wait for.
_SYNCHRONIZING = frozenset(
    "_local_scalar_dense _unique2 bincount equal masked_select nonzero".split()
)
_INDEXING = frozenset(["index", "index_put", "index_put_", "_index_put_impl_"])


@dataclass(frozen=True)
class Copy:
    """A copy from the host; a copy from pageable memory also synchronizes."""

    where: str
    num_bytes: int
    is_pinned: bool


@dataclass
class HostWork:
    """What the host did for the GPU, each with the project's file and line."""

    launches: list[tuple[str, str]] = field(default_factory=list)  # with the operator
    copies_in: list[Copy] = field(default_factory=list)
    syncs: list[tuple[str, str]] = field(default_factory=list)  # with the operator

    def launches_in(self, *folders: str) -> int:
        return sum(where.startswith(folders) for where, _ in self.launches)

    def table(self) -> str:
        """Return all counts by source line, for the message of a failing test."""
        counts = Counter(("launch", *launch) for launch in self.launches)
        counts.update(("sync", *sync) for sync in self.syncs)
        kinds = {True: "pinned copy in", False: "pageable copy in"}
        counts.update((kinds[copy.is_pinned], copy.where, "") for copy in self.copies_in)
        return "\n".join(f"{n:5} {' '.join(key)}" for key, n in sorted(counts.items()))


class _CudaTensor(torch.Tensor):
    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "_CudaTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=CUDA,
        )
        tensor.values = values
        return tensor

    def tolist(self) -> Any:
        return self.to(CPU).tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} on the pretended GPU, outside of `pretended_cuda`")


class _PretendedCuda(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.work = HostWork()
        self.current_gpu = OTHER_GPU  # of the thread
        self._pinned: dict[int, torch.UntypedStorage] = {}  # by address, kept so that it stays

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.partition("::")[2]
        if name in ("is_pinned", "_pin_memory") or kwargs.pop("pin_memory", None):
            return self._pin(func, name, args, kwargs)
        if _is_composite(func):  # as in inference mode
            with self:
                return func.decompose(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        has_own = any(isinstance(tensor, _CudaTensor) for tensor in tensors)
        device = kwargs.get("device")
        target = torch.device(device) if device is not None else CUDA if has_own else CPU
        if not has_own and target.type != "cuda":
            return func(*args, **kwargs)
        self._count(name, tensors, target, kwargs)
        if name == "_varlen_attn":
            return self._attend(args)
        return _compute(func, args, kwargs, tensors, target)

    def _pin(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name == "is_pinned":
            return self._is_pinned(args[0])
        if self.current_gpu != CUDA.index:
            raise RuntimeError(f"{name} would pin memory for a GPU that is not in use")
        result = args[0].clone() if name == "_pin_memory" else func(*args, **kwargs)
        storage = result.untyped_storage()
        self._pinned[storage.data_ptr()] = storage
        return result

    def exchange(self, index: int) -> int:
        """Make a GPU the current one; return the one before."""
        self.current_gpu, before = index, self.current_gpu
        return before

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def _count(
        self, name: str, tensors: list[torch.Tensor], target: torch.device, kwargs: Any
    ) -> None:
        where = _project_line()
        if name in ("_to_copy", "copy_"):
            self._count_copy(name, where, tensors, target, kwargs)
            return
        if any(_is_real(tensor) for tensor in tensors):
            if name not in _INDEXING:
                devices = [str(tensor.device) for tensor in tensors]
                raise RuntimeError(f"{name} mixes devices {devices} at {where}")
            self.work.copies_in += [
                Copy(where, tensor.nbytes, is_pinned=False)
                for tensor in tensors
                if _is_real(tensor)
            ]
        if name in _SYNCHRONIZING or (name in _INDEXING and _has_mask(tensors[1:])):
            self.work.syncs.append((where, name))
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.work.syncs.append((where, name))
        if name not in _HOST_ONLY and name != "_local_scalar_dense":
            self.work.launches += [(where, name)] * LAUNCHES.get(name, 1)

    def _count_copy(
        self,
        name: str,
        where: str,
        tensors: list[torch.Tensor],
        target: torch.device,
        kwargs: Any,
    ) -> None:
        """Count a copy; one between tensors of the GPU is a kernel."""
        if name == "_to_copy":
            source, to_gpu = tensors[0], target.type == "cuda"
        else:
            source, to_gpu = tensors[-1], isinstance(tensors[0], _CudaTensor)
        if not isinstance(source, _CudaTensor):
            is_pinned = self._is_pinned(source)
            self.work.copies_in.append(Copy(where, source.nbytes, is_pinned))
        elif to_gpu:
            self.work.launches.append((where, name))
        else:
            self.work.syncs.append((where, "copy out"))

    def _attend(self, args: Any) -> Any:
        """Emulate torch's flash-attention operator, which also fills a tensor of its own."""
        self.work.launches.append((_project_line(), "fill"))
        output = attend_varlen(*(_values(arg) for arg in args))
        return tuple(map(_CudaTensor, (output, torch.empty(1), torch.empty(2))))


def _compute(
    func: Any, args: Any, kwargs: Any, tensors: list[torch.Tensor], target: torch.device
) -> Any:
    """Compute on the CPU; wrap what would lie on the GPU."""
    if kwargs.get("device") is not None:
        kwargs = kwargs | {"device": CPU}
    # Tensors changed in place are returned as they are.
    known = {id(t.values): t for t in tensors if isinstance(t, _CudaTensor)}
    args, kwargs = tree_map(_values, (args, kwargs))
    if func is torch.ops.aten._to_copy.default:
        kwargs = {name: kwargs[name] for name in kwargs if name != "non_blocking"}

    def wrap(result: Any) -> Any:
        if not isinstance(result, torch.Tensor) or target.type != "cuda":
            return result
        return known[id(result)] if id(result) in known else _CudaTensor(result)

    return tree_map(wrap, func(*args, **kwargs))


def _is_real(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is on the CPU; scalars do not count, they mix with any device."""
    return not isinstance(tensor, _CudaTensor) and tensor.dim() > 0


def _has_mask(indices: list[torch.Tensor]) -> bool:
    return any(index.dtype in (torch.bool, torch.uint8) for index in indices)


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, _CudaTensor) else leaf


def _is_composite(func: Any) -> bool:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    name = func.name()
    return has_kernel(name, "CompositeImplicitAutograd") and not has_kernel(name, "CPU")


def _project_line() -> str:
    """Return file and line of the innermost call by the worker, relative to its package."""
    root = f"{PROJECT}/worker/"
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(root):
            return f"{file.removeprefix(root)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@contextmanager
def pretended_cuda() -> Iterator[_PretendedCuda]:
    """Make `cuda:0` a device that computes. The guard must be loaded."""
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` makes tensors on the CPU first
    capability = patch("torch.cuda.get_device_capability", lambda device=None: HOPPER)
    count = patch("torch.cuda.device_count", lambda: 1)
    memory = patch("torch.cuda.mem_get_info", lambda device=None: (2**30, 2**30))
    cuda = _PretendedCuda()
    exchange = patch("torch.cuda._exchange_device", cuda.exchange)
    restore = patch("torch.cuda._maybe_exchange_device", cuda.exchange)
    kernels = patch.dict(sys.modules, EMULATED)
    try:
        # From the first tensor on: views of tensors made outside inference mode are unsupported.
        with capability, count, memory, exchange, restore, kernels, torch.inference_mode():
            with cuda:
                yield cuda
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
