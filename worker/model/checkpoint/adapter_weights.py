"""Read a LoRA adapter that peft saved, strictly: what is not supported is refused.

Needs the optional extra peft, for its fields and their defaults.
"""

import math
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from worker.model.checkpoint.adapter_folders import CONFIG_FILE, AdapterFolder
from worker.model.checkpoint.shards import open_shard
from worker.model.errors import CheckpointError
from worker.model.json_fields import JsonFields, read_json
from worker.model.lora import LoraAdapter, LowRank

WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # the first that exists

# Fields of adapter_config.json that are supported, or that change nothing in a saved adapter. Any
# other field must have peft's default.
_SUPPORTED = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"}
_STORED = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
_OF_TRAINING = {"lora_dropout", "inference_mode", "task_type", "megatron_config", "megatron_core"}
_PROVENANCE = {"base_model_name_or_path", "revision", "auto_mapping", "peft_version"}
# Of an initialization that `init_lora_weights` names, or of a variant that another field enables.
_OF_REFUSED = {"eva_config", "corda_config", "lora_ga_config", "loftq_config", "qalora_group_size"}
_OF_REFUSED |= {"ensure_weight_tying"}
_OF_RUNTIME = {"runtime_config", "merge_weights"}  # written by older releases
_OF_CONV1D = {"fan_in_fan_out"}  # peft corrects it for the linear layers that Falcon has
_IGNORED = _STORED | _OF_TRAINING | _PROVENANCE | _OF_REFUSED | _OF_RUNTIME | _OF_CONV1D
# All other initializations change the weights that they adapt.
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


def check_peft() -> None:
    """Raise CheckpointError, naming the extra, if peft is not installed."""
    if find_spec("peft") is None:
        raise CheckpointError(
            "adapters need the package peft, which the extra lora brings: "
            "pip install 'falconer[lora]'"
        )


def read_adapter(folder: AdapterFolder, model: nn.Module) -> LoraAdapter:
    """Read the updates of an adapter for `model`, float32 on the CPU, times its strength.

    Raises CheckpointError, naming folder and field or tensor, for what is not supported or does not
    fit the linear layers of `model`.
    """
    fields = _read_config(folder)
    file = find_weights(folder)
    with open_shard(file) as shard:
        tensors = {name: shard.slice(name)[:] for name in shard.names()}
    adapter = {
        name: _read_update(folder, fields, tensors, name, linear)
        for name, linear in _adaptable(model)
        if {_key(name, "A"), _key(name, "B")} & tensors.keys()
    }
    known = {_key(name, side) for name in adapter for side in "AB"}
    if unknown := sorted(tensors.keys() - known):
        raise folder.error(f"{file.name} holds {unknown[0]}, which is not supported")
    if not adapter:
        raise folder.error(f"{file.name} holds no tensor")
    return adapter


def _read_config(folder: AdapterFolder) -> JsonFields:
    from peft import LoraConfig

    fields = JsonFields(str(folder.path / CONFIG_FILE), read_json(folder.path / CONFIG_FILE))
    defaults = vars(LoraConfig())
    for name, value in fields.raw.items():
        is_default = (value or None) == (defaults.get(name) or None)
        if not is_default and name not in _SUPPORTED | _IGNORED:
            raise fields.error(f"{name} is {value!r}, which is not supported")
    init = fields.raw.get("init_lora_weights")
    if init not in _PLAIN_INITS:
        raise fields.error(
            f"init_lora_weights is {init!r}, which changes the weights of the model: "
            "save the adapter converted to plain LoRA"
        )
    return fields


def find_weights(folder: AdapterFolder) -> Path:
    """Return the weights file of an adapter. Raises CheckpointError if there is none."""
    files = [folder.path / name for name in WEIGHTS_FILES]
    for file in files:
        if file.is_file():
            return file
    raise folder.error(f"neither {files[0].name} nor {files[1].name} exists")


def _adaptable(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers of the decoder layers, by name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("transformer.h."):
            yield name, module


def _key(linear: str, side: str) -> str:
    """Return peft's name for one of the two matrices of a linear layer's update."""
    return f"base_model.model.{linear}.lora_{side}.weight"


def _read_update(
    folder: AdapterFolder,
    fields: JsonFields,
    tensors: Mapping[str, torch.Tensor],
    name: str,
    linear: nn.Linear,
) -> LowRank:
    rank, scale = _rank_and_scale(fields, name)
    shapes = {"A": (rank, linear.in_features), "B": (linear.out_features, rank)}
    for side, shape in shapes.items():
        tensor = tensors.get(_key(name, side))
        if tensor is None:
            raise folder.error(f"the weights lack {_key(name, side)}")
        if tensor.shape != shape:
            raise folder.error(
                f"{_key(name, side)} is {list(tensor.shape)}; this model and the rank in "
                f"{CONFIG_FILE} ask for {list(shape)}"
            )
    down, up = (tensors[_key(name, side)].to(torch.float32, copy=True) for side in "AB")
    return LowRank(down, up * (scale * folder.strength))


def _rank_and_scale(fields: JsonFields, name: str) -> tuple[int, float]:
    """Return the rank of a linear layer's update and its scale."""
    from peft.utils.other import get_pattern_key

    ranks, alphas = fields.mapping("rank_pattern"), fields.mapping("alpha_pattern")
    try:
        rank_key, alpha_key = (get_pattern_key([*each.raw], name) for each in (ranks, alphas))
    except re.error as error:
        raise fields.error(f"a pattern must be a regular expression: {error}") from error
    rank = ranks.integer(rank_key, fields.integer("r", 8))
    alpha = alphas.number(alpha_key, fields.number("lora_alpha", 8.0))
    return rank, alpha / (math.sqrt(rank) if fields.flag("use_rslora", False) else rank)
