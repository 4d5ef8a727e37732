"""Strict loading of safetensors: every tensor of the network, each in its shape, and no other.

Owns shards, headers and tied embeddings. Headers are checked before the first weight is read.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from worker.model.checkpoint import resolve_checkpoint
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap
from worker.model.errors import CheckpointError
from worker.model.falcon import WHOLE, FalconForCausalLM
from worker.model.json_fields import JsonFields, read_json
from worker.model.tensor_parallel import TensorParallel

EMBEDDINGS = "transformer.word_embeddings.weight"
LM_HEAD = "lm_head.weight"
STORED_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_NAMED = 5  # tensors listed in an error


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Where one tensor lies and what it looks like."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class LoadingPlan:
    """A checkpoint whose weights are known to fit its configuration."""

    model: FalconForCausalLM  # on the meta device
    headers: dict[str, TensorHeader]
    origins: dict[str, str]  # parameter → the stored tensor it takes

    @property
    def dtype(self) -> torch.dtype:
        """What config.json states, else what the embeddings are stored in."""
        return self.model.config.dtype or self.headers[self.origins[EMBEDDINGS]].dtype

    def num_read_bytes(self, loaded: FalconForCausalLM) -> int:
        """Bytes of the files that a network, or a part of one, was read from."""
        sizes = {self.origins[name]: t.numel() for name, t in loaded.state_dict().items()}
        return sum(size * self.headers[name].dtype.itemsize for name, size in sizes.items())


def load_model(
    source: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device,
    parallel: TensorParallel = WHOLE,
) -> FalconForCausalLM:
    """Load a local folder or hub id onto `device`, ready for inference: its part, if `parallel`.

    `dtype` None takes what config.json states, else what the embeddings are stored in. Raises
    CheckpointError naming what is missing, unexpected or of a wrong shape, ValueError where the
    network cannot be split.
    """
    plan = plan_loading(resolve_checkpoint(source))
    return load_weights(plan, dtype=dtype, device_map=DeviceMap(device), parallel=parallel)


def load_weights(
    plan: LoadingPlan,
    *,
    dtype: torch.dtype | None = None,
    device_map: DeviceMap,
    parallel: TensorParallel = WHOLE,
) -> FalconForCausalLM:
    """The second half of `load_model`: read what the plan names."""
    parallel.check(plan.model.config)
    with torch.device("meta"):
        model = FalconForCausalLM(plan.model.config, parallel)
    tensors = _read_tensors(plan, dtype or plan.dtype, device_map, parallel)
    model.load_state_dict(tensors, assign=True)
    _tie_equal_embeddings(model)
    _move_buffers(model, device_map.main)
    return model.eval().requires_grad_(False)


def plan_loading(path: Path) -> LoadingPlan:
    """Check a checkpoint folder from config.json and headers alone. Raises CheckpointError."""
    config = ModelConfig.from_checkpoint(path)
    with torch.device("meta"):
        model = FalconForCausalLM(config)
    headers = read_headers(path)
    return LoadingPlan(model, headers, match_tensors(model, headers))


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """Every tensor of a checkpoint folder by name, from its safetensors headers alone."""
    headers: dict[str, TensorHeader] = {}
    for file in find_shards(path):
        with _open(file) as shard:
            for name in shard.keys():
                headers[name] = _header(file, name, shard.get_slice(name))
    return headers


def find_shards(path: Path) -> list[Path]:
    """The safetensors files of a folder. Raises CheckpointError when there are none, or not all."""
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.is_file():  # of both, the one that transformers takes
        return [single]
    if not index.is_file():
        raise CheckpointError(
            f"neither {single.name} nor {index.name} in {path}; pickled .bin weights can run code "
            "when loaded and are never read: convert them, FalconForCausalLM"
            ".from_pretrained(...).save_pretrained(...) writes safetensors"
        )
    names = _indexed_files(index)
    if absent := [name for name in names if not (path / name).is_file()]:
        raise CheckpointError(f"{path} lacks weight files its index names: {_listed(absent)}")
    return [path / name for name in names]


def _indexed_files(index: Path) -> list[str]:
    names = set(JsonFields(index.name, read_json(index)).mapping("weight_map").raw.values())
    if not names:
        raise CheckpointError(f"{index.name}: weight_map names no files")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index.name}: weight_map names {name!r}, no file beside it")
    return sorted(names)


def match_tensors(model: FalconForCausalLM, headers: Mapping[str, TensorHeader]) -> dict[str, str]:
    """Which stored tensor each parameter of `model` takes: itself, save for tied embeddings.

    A tied checkpoint stores one of the pair, or both. Raises CheckpointError listing the missing,
    the unexpected and the wrongly shaped.
    """
    parameters = model.state_dict()
    origins = {name: name for name in parameters}
    if model.config.tie_word_embeddings:
        for absent, other in ((LM_HEAD, EMBEDDINGS), (EMBEDDINGS, LM_HEAD)):
            if absent not in headers:
                origins[absent] = other
    problems = []
    if missing := sorted(set(origins.values()) - headers.keys()):
        problems.append(f"missing: {_listed(missing)}")
    if unexpected := sorted(headers.keys() - set(origins.values())):
        problems.append(f"unexpected: {_listed(unexpected)}")
    misshapen = [
        f"{name} is {list(headers[origin].shape)}, config.json asks for {list(tensor.shape)}"
        for name, tensor in parameters.items()
        if (origin := origins[name]) in headers and headers[origin].shape != tensor.shape
    ]
    if misshapen:
        problems.append(f"wrong shape: {_listed(misshapen)}")
    if problems:
        raise CheckpointError("the weights do not fit config.json: " + "; ".join(problems))
    return origins


def _read_tensors(
    plan: LoadingPlan, dtype: torch.dtype, device_map: DeviceMap, parallel: TensorParallel
) -> dict[str, torch.Tensor]:
    """Read and convert tensor by tensor, so that only one is ever held in both dtypes.

    In the order of the file, which the kernel is told to read ahead.
    """
    stored: dict[str, torch.Tensor] = {}
    wanted = set(plan.origins.values())
    for file in sorted({plan.headers[name].file for name in wanted}):
        read_ahead(file)
        with _open(file) as shard:
            for name in shard.offset_keys():
                if name in wanted:
                    part = parallel.read(name, shard.get_slice(name))
                    stored[name] = _take(part, dtype, device_map.of_parameter(name))
    return {name: stored[origin] for name, origin in plan.origins.items()}


def _take(part: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Copy what safetensors hands out, once: it is the mapped file, which others may overwrite.

    Another device takes it straight from there, and converts it faster than this one would.
    """
    if device.type == "cpu":
        return part.to(dtype=dtype, copy=True)
    return part.to(device).to(dtype)


def read_ahead(file: Path) -> None:
    """Have the kernel (Linux) read a whole file into its cache, meanwhile.

    Left to page faults it reads a little at a time and waits in between.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _tie_equal_embeddings(model: FalconForCausalLM) -> None:
    """Keep one copy of embeddings stored twice; unequal ones stay apart, whatever config says."""
    if torch.equal(model.lm_head.weight, model.transformer.word_embeddings.weight):
        model.lm_head.weight = model.transformer.word_embeddings.weight


def _move_buffers(model: FalconForCausalLM, device: torch.device) -> None:
    """What is in no file; the decoder layers, which may lie elsewhere, have none."""
    for module in model.transformer.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


@contextmanager
def _open(file: Path) -> Iterator[Any]:  # safetensors' handle is untyped
    try:
        with safe_open(file, framework="pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _header(file: Path, name: str, tensor_slice: Any) -> TensorHeader:
    stored = tensor_slice.get_dtype()
    if stored not in STORED_DTYPES:
        raise CheckpointError(f"{file.name}: {name} is stored as {stored}, which is not supported")
    return TensorHeader(file, tuple(tensor_slice.get_shape()), STORED_DTYPES[stored])


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
