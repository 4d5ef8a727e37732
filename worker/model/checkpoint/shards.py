"""The weight files of a checkpoint or an adapter, in safetensors or torch's format.

Finds the files in a folder and reads one tensor at a time. torch's files go through its restricted
unpickler, which runs no code. Files are mapped, not read whole.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from worker.model.errors import CheckpointError, unreadable
from worker.model.json_fields import JsonFields, read_json

# In the order of preference, as in transformers.
_STEMS = (("model", "safetensors"), ("pytorch_model", "bin"))
_NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})\.")
MAX_NAMED = 5  # files or tensors listed in an error

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(slots=True)
class ReadProgress:
    """Bytes of weights: read, and all that will be. Another thread may look at both."""

    num_bytes: int = 0
    total: int = 0  # 0 before the headers are read


class Shard(Protocol):
    """One open file. A slice is indexed like a tensor and reads only what is indexed."""

    def names(self) -> list[str]:
        """Return the names of the tensors, in the order of the file."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def slice(self, name: str) -> Any: ...


@contextmanager
def open_shard(file: Path) -> Iterator[Shard]:
    """Open a weights file by its format. Raises CheckpointError if it cannot be read."""
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                yield _Safetensors(file, opened)
        except (SafetensorError, OSError) as error:
            raise unreadable(file, error) from error
    else:
        yield _TorchFile(_load_torch_file(file))


class _Safetensors:
    def __init__(self, file: Path, opened: Any) -> None:  # safetensors' handle is untyped
        self._file = file
        self._opened = opened

    def names(self) -> list[str]:
        return list(self._opened.offset_keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._opened.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        stored = self._opened.get_slice(name).get_dtype()
        if stored not in _DTYPES:
            raise CheckpointError(
                f"{self._file.name}: {name} is stored as {stored}, which is not supported"
            )
        return _DTYPES[stored]

    def slice(self, name: str) -> Any:
        return self._opened.get_slice(name)


class _TorchFile:
    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._tensors[name].dtype

    def slice(self, name: str) -> Any:
        return _TensorSlice(self._tensors[name])


class _TensorSlice:
    """A tensor with the interface of safetensors' slices."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._tensor[index]


def _load_torch_file(file: Path) -> Mapping[str, torch.Tensor]:
    try:
        # Before torch 1.6 a file was a pickle, which cannot be mapped.
        is_mapped = zipfile.is_zipfile(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        raise unreadable(
            file, "it holds more than tensors, and unpickling that may run code"
        ) from error
    except Exception as error:  # a broken file may raise anything
        raise unreadable(file, str(error).strip().partition("\n")[0] or repr(error)) from error
    if not isinstance(tensors, Mapping):
        raise unreadable(file, "it holds no state dict")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise unreadable(
                file, f"a state dict must hold tensors alone, but {name!r} is not a tensor"
            )
    return tensors


def find_shards(path: Path) -> list[Path]:
    """Return the weights files of a folder. Raises CheckpointError unless all are there."""
    for stem, suffix in _STEMS:
        single, index = path / f"{stem}.{suffix}", path / f"{stem}.{suffix}.index.json"
        if single.is_file():  # it takes precedence, as in transformers
            return [single]
        if index.is_file():
            return _indexed_files(index)
    for stem, suffix in _STEMS:
        if numbered := _numbered_files(path, stem, suffix):
            return numbered
    raise CheckpointError(
        f"no weights in {path}: it must hold model.safetensors or pytorch_model.bin, whole or in "
        "numbered parts; FalconForCausalLM.from_pretrained(...).save_pretrained(...) converts "
        "other formats"
    )


def _indexed_files(index: Path) -> list[Path]:
    names = [*JsonFields(index.name, read_json(index)).mapping("weight_map").raw.values()]
    if not names:
        raise CheckpointError(f"{index.name}: weight_map names no files")
    files = {str(name): _beside(index, name) for name in names}
    if absent := sorted(name for name, file in files.items() if not file.is_file()):
        raise CheckpointError(
            f"{index.parent} lacks weight files its index names: {listed(absent)}"
        )
    return sorted(set(files.values()))


def _beside(index: Path, name: Any) -> Path:
    """Return the file that an index names, in its folder even if it names another path."""
    if not isinstance(name, str) or not (parts := PurePosixPath(name).parts):
        raise CheckpointError(f"{index.name}: weight_map names {name!r}, no file")
    if ".." in parts or PurePosixPath(name).is_absolute():
        return index.parent / parts[-1]
    return index.parent / name


def _numbered_files(path: Path, stem: str, suffix: str) -> list[Path]:
    """Return the numbered files of a checkpoint without an index."""
    files = sorted(path.glob(f"{stem}-?????-of-?????.{suffix}"))
    numbers = [match for file in files if (match := _NUMBERED.search(file.name))]
    if not numbers:
        return []
    total = max(int(match[2]) for match in numbers)
    if sorted(int(match[1]) for match in numbers) != list(range(1, total + 1)):
        raise CheckpointError(
            f"{path} holds {len(files)} weight files of {total}, and no index that names them"
        )
    return files


def read_ahead(file: Path) -> None:
    """Make the kernel (Linux) read a whole file into its cache in the background.

    By page faults alone it reads a little at a time and waits in between.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def listed(names: list[str]) -> str:
    """Format the first names of a list, and how many more there are."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
