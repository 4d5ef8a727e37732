"""Strict loading of weights: every tensor of the network, in its shape, and no other.

Matches files and network, and handles tied embeddings. Headers are checked before the first weight
is read.

Trainers wrap networks and save them whole: `module.transformer.h.0…`, `base_model.model.…`, or
without `transformer.`. Files may also hold other heads and saved buffers.
"""

import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from worker.model.checkpoint.folder import resolve_checkpoint
from worker.model.checkpoint.shards import (
    ReadProgress,
    find_shards,
    listed,
    open_shard,
    read_ahead,
)
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap
from worker.model.errors import CheckpointError
from worker.model.falcon import UNSPLIT, FalconForCausalLM
from worker.model.tensor_parallel import TensorParallel

logger = logging.getLogger(__name__)

EMBEDDINGS = "transformer.word_embeddings.weight"
LM_HEAD = "lm_head.weight"
_BODY = "transformer."
_HEAD = "lm_head."
_FINAL_NORM = "ln_f.weight"  # once in every Falcon, at the root of its body
_BODY_ROOTS = ("word_embeddings.", "h.", "ln_f.")

_BUFFERS = re.compile(
    r"\.(inv_freq|masked_bias|causal_mask|position_ids|cos_cached|sin_cached|alibi|slopes"
    r"|(self_attention|attention|attn)\.bias)$"
)
STORED_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class TensorHeader:
    file: Path
    stored_name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class LoadingPlan:
    """A checkpoint with weights that fit its configuration."""

    model: FalconForCausalLM  # on the meta device
    headers: dict[str, TensorHeader]
    origins: dict[str, str]  # parameter → the stored tensor it takes
    notes: tuple[str, ...] = ()  # warnings for the operator
    progress: ReadProgress = field(default_factory=ReadProgress, compare=False)

    def following(self, progress: ReadProgress) -> "LoadingPlan":
        """Return the same plan, which counts in `progress` what is read."""
        progress.total = sum(self.headers[name].num_bytes for name in {*self.origins.values()})
        return replace(self, progress=progress)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype that config.json states, else that of the stored embeddings."""
        return self.model.config.dtype or self.headers[self.origins[EMBEDDINGS]].dtype

    def embeddings_dtype(self, dtype: torch.dtype, unread: Collection[str]) -> torch.dtype:
        """Return bfloat16 if the embeddings are stored in it and no head shares them, else `dtype`.

        OpenVINO would convert float16 to float32, and keep both.
        """
        header = self.headers.get(self.origins[EMBEDDINGS])
        keeps_stored = header and header.dtype == torch.bfloat16 and LM_HEAD in unread
        return torch.bfloat16 if keeps_stored else dtype

    def num_read_bytes(self, loaded: FalconForCausalLM) -> int:
        """Return the bytes of the tensors that a network, or a part of one, was read from."""
        sizes = {self.origins[name]: t.numel() for name, t in loaded.state_dict().items()}
        return sum(size * self.headers[name].dtype.itemsize for name, size in sizes.items())


def load_model(
    source: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device,
    parallel: TensorParallel = UNSPLIT,
) -> FalconForCausalLM:
    """Load a local folder or hub id, or the part of a rank, onto `device` for inference.

    `dtype` None takes that of `LoadingPlan`. Raises CheckpointError, naming missing, unexpected and
    misshapen tensors; ValueError if the network cannot be split.
    """
    plan = plan_loading(resolve_checkpoint(source))
    return load_weights(plan, dtype=dtype, device_map=DeviceMap(device), parallel=parallel)


def load_weights(
    plan: LoadingPlan,
    *,
    dtype: torch.dtype | None = None,
    device_map: DeviceMap,
    parallel: TensorParallel = UNSPLIT,
    unread: Collection[str] = (),
) -> FalconForCausalLM:
    """Read the part of a rank onto the devices of a map, ready for inference.

    `dtype` None takes that of the plan. The parameters named in `unread` stay on the meta device;
    without the head, the embeddings keep a smaller dtype of the file. Raises ValueError if the
    network cannot be split.
    """
    parallel.check(plan.model.config)
    for note in plan.notes if parallel.rank == 0 else ():
        logger.warning(note)
    with torch.device("meta"):
        model = FalconForCausalLM(plan.model.config, parallel)
    tensors = _read_tensors(plan, dtype or plan.dtype, device_map, parallel, unread)
    model.load_state_dict(tensors, assign=True, strict=not unread)
    if LM_HEAD not in unread:
        _tie_equal_embeddings(model)
    _move_buffers(model, device_map.main)
    return model.eval().requires_grad_(False)


def plan_loading(path: Path) -> LoadingPlan:
    """Check a checkpoint folder from config.json and headers alone. Raises CheckpointError."""
    stated = ModelConfig.from_checkpoint(path)
    headers = read_headers(path)
    config = replace(stated, vocab_size=_count_rows(stated, headers))
    with torch.device("meta"):
        model = FalconForCausalLM(config)
    origins = match_tensors(model, headers)
    notes = []
    if config != stated:
        notes.append(
            f"config.json: vocab_size is {stated.vocab_size}; the {config.vocab_size} rows of the "
            "embedding table count"
        )
    if ignored := sorted(headers.keys() - set(origins.values())):
        notes.append(f"ignored tensors that the network lacks: {listed(ignored)}")
    return LoadingPlan(model, headers, origins, tuple(notes))


def _count_rows(config: ModelConfig, headers: Mapping[str, TensorHeader]) -> int:
    """Return the vocabulary size of the tables, which may have been resized after config.json."""
    tables = {headers[name].shape for name in (EMBEDDINGS, LM_HEAD) if name in headers}
    match [*tables]:
        case [(num_rows, config.hidden_size)]:
            return num_rows
    return config.vocab_size


def read_headers(path: Path) -> dict[str, TensorHeader]:
    """Return the header of every tensor in a checkpoint folder, by its name in the network."""
    stored: dict[str, TensorHeader] = {}
    for file in find_shards(path):
        with open_shard(file) as shard:
            for name in shard.names():
                stored[name] = TensorHeader(file, name, shard.shape(name), shard.dtype(name))
    names = _TensorNames(stored)
    return {names.translate(name): header for name, header in stored.items()}


class _TensorNames:
    """Translate the names of one checkpoint to names of the network."""

    def __init__(self, stored: Collection[str]) -> None:
        final_norms = [name for name in stored if f".{name}".endswith(f".{_FINAL_NORM}")]
        whole = min(
            final_norms, key=lambda name: (name != _BODY + _FINAL_NORM, len(name)), default=None
        )
        self._body = _BODY if whole is None else whole.removesuffix(_FINAL_NORM)
        self._outer = self._body.removesuffix(_BODY)

    def translate(self, stored: str) -> str:
        """Return the name in the network; other names are returned unchanged."""
        if stored.startswith(self._body) and self._body:
            return _BODY + stored.removeprefix(self._body)
        if not self._body and stored.startswith(_BODY_ROOTS):
            return _BODY + stored
        return stored.removeprefix(self._outer)


def _is_ignorable(name: str) -> bool:
    """Return whether a tensor can be ignored: it belongs to another head, or is a buffer."""
    return not name.startswith((_BODY, _HEAD)) or _BUFFERS.search(name) is not None


def match_tensors(model: FalconForCausalLM, headers: Mapping[str, TensorHeader]) -> dict[str, str]:
    """Return the name of the stored tensor of each parameter; tied embeddings may share one.

    Raises CheckpointError, listing missing, unexpected and misshapen tensors. Ignorable tensors
    do not count.
    """
    parameters = model.state_dict()
    origins = _find_origins(model, headers)
    problems = []
    if missing := sorted(set(origins.values()) - headers.keys()):
        problems.append(f"missing: {listed(missing)}")
    others = headers.keys() - set(origins.values())
    if unexpected := sorted(name for name in others if not _is_ignorable(name)):
        problems.append(f"unexpected: {listed(unexpected)}")
    misshapen = [
        f"{name} is {list(headers[origin].shape)}, config.json asks for {list(tensor.shape)}"
        for name, tensor in parameters.items()
        if (origin := origins[name]) in headers and headers[origin].shape != tensor.shape
    ]
    if misshapen:
        problems.append(f"wrong shape: {listed(misshapen)}")
    if any(".lora_" in name for name in unexpected):
        problems.append("an adapter that is not merged: merge_and_unload() of peft merges it")
    if problems:
        raise CheckpointError("the weights do not fit config.json: " + "; ".join(problems))
    _check_dtypes(headers[origin] for origin in origins.values())
    return origins


def _find_origins(model: FalconForCausalLM, headers: Mapping[str, TensorHeader]) -> dict[str, str]:
    """Map parameters to stored tensors; a tied checkpoint stores one of the pair, or both."""
    origins = {name: name for name in model.state_dict()}
    if model.config.tie_word_embeddings:
        for absent, other in ((LM_HEAD, EMBEDDINGS), (EMBEDDINGS, LM_HEAD)):
            if absent not in headers:
                origins[absent] = other
    return origins


def _check_dtypes(headers: Iterable[TensorHeader]) -> None:
    for header in headers:
        if header.dtype not in STORED_DTYPES:
            stored = str(header.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{header.file.name}: {header.stored_name} is stored as {stored}, "
                "which is not supported"
            )


def _read_tensors(
    plan: LoadingPlan,
    dtype: torch.dtype,
    device_map: DeviceMap,
    parallel: TensorParallel,
    unread: Collection[str],
) -> dict[str, torch.Tensor]:
    """Read and convert tensor by tensor, so that only one is held in both dtypes.

    Reads in the order of the file, which the kernel reads ahead.
    """
    stored: dict[str, torch.Tensor] = {}
    origins = {name: origin for name, origin in plan.origins.items() if name not in unread}
    embeddings_dtype = plan.embeddings_dtype(dtype, unread)
    wanted = {plan.headers[name].stored_name: name for name in origins.values()}
    for file in sorted({plan.headers[name].file for name in wanted.values()}):
        if not unread:
            read_ahead(file)
        with open_shard(file) as shard:
            for stored_name in shard.names():
                if name := wanted.get(stored_name):
                    part = parallel.read(name, shard.slice(stored_name))
                    wanted_dtype = embeddings_dtype if name == origins[EMBEDDINGS] else dtype
                    stored[name] = _take(part, wanted_dtype, device_map.of_parameter(name))
                    plan.progress.num_bytes += plan.headers[name].num_bytes
    return {name: stored[origin] for name, origin in origins.items()}


def _take(part: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Copy a tensor out of the mapped file, which other processes may overwrite.

    Another device copies it straight from the file, and converts it faster than this one.
    """
    if device.type == "cpu":
        return part.to(dtype=dtype, copy=True)
    return part.to(device).to(dtype)


def _tie_equal_embeddings(model: FalconForCausalLM) -> None:
    """Tie the head to equal embeddings; different embeddings stay apart, whatever the config."""
    if torch.equal(model.lm_head.weight, model.transformer.word_embeddings.weight):
        model.lm_head.weight = model.transformer.word_embeddings.weight


def _move_buffers(model: FalconForCausalLM, device: torch.device) -> None:
    """Move the buffers, which are in no file. Decoder layers have none."""
    for module in model.transformer.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
