"""LoRA adapters of an engine: merged into the weights, or served side by side."""

import logging
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import torch

from worker.model.checkpoint.adapter_folders import AdapterFolder, find_adapters
from worker.model.checkpoint.adapter_weights import check_peft, read_adapter
from worker.model.checkpoint.linear_weights import LinearWeights
from worker.model.device_map import DeviceMap
from worker.model.falcon import UNSPLIT, FalconForCausalLM
from worker.model.lora import LoraAdapter, LowRank, ServedAdapter, merge_adapters
from worker.model.tensor_parallel import TensorParallel

logger = logging.getLogger(__name__)


class AdapterMode(StrEnum):
    MERGE = "merge"  # all of them, into the weights
    SERVE = "serve"  # each for the requests that name it


def look_for_adapters(directory: str | None) -> list[AdapterFolder]:
    """Find the adapters in a directory; none without a directory.

    Strengths come from the environment. Raises CheckpointError for an empty directory, or if peft
    is not installed.
    """
    if directory is None:
        return []
    check_peft()
    return find_adapters(Path(directory).expanduser(), os.environ)


def load_adapters(
    folders: list[AdapterFolder],
    mode: AdapterMode,
    model: FalconForCausalLM,
    device_map: DeviceMap,
    unread: LinearWeights | None,
    parallel: TensorParallel = UNSPLIT,
) -> dict[str, ServedAdapter]:
    """Read adapters for a model, or for one rank's part of it; return those to serve, by name.

    With mode MERGE they are added to the weights, read or unread, and none is returned. Served
    adapters go to the devices of `device_map`. Call it before linear layers are replaced. Raises
    CheckpointError.
    """
    adapters = _read_adapters(folders, model, parallel)
    for folder in folders:
        logger.info("adapter %s: %s, strength %g", folder.name, mode, folder.strength)
    if mode is AdapterMode.MERGE:
        if unread is None:
            merge_adapters(model, list(adapters.values()))
        else:
            unread.merge(list(adapters.values()))
        return {}
    num_layers = model.config.num_layers
    return {
        name: ServedAdapter(adapter, num_layers, model.dtype, device_map)
        for name, adapter in adapters.items()
    }


def read_served_adapter(model: FalconForCausalLM, folder: AdapterFolder) -> ServedAdapter:
    """Read one adapter for a whole network that is loaded already. Raises CheckpointError."""
    check_peft()
    torch.set_num_threads(1)  # of this thread: the engine's thread has the others
    devices = {range(i, i + 1): device for i, device in enumerate(model.layer_devices)}
    adapter = _read_adapters([folder], model, UNSPLIT)[folder.name]
    device_map = DeviceMap(model.device, devices)
    return ServedAdapter(adapter, model.config.num_layers, model.dtype, device_map)


def _read_adapters(
    folders: list[AdapterFolder], model: FalconForCausalLM, parallel: TensorParallel
) -> Mapping[str, LoraAdapter]:
    if not folders:
        return {}
    with torch.device("meta"):  # for the shapes of the whole network
        whole = FalconForCausalLM(model.config)
    return {folder.name: _own_part(read_adapter(folder, whole), parallel) for folder in folders}


def _own_part(adapter: LoraAdapter, parallel: TensorParallel) -> LoraAdapter:
    return {
        name: LowRank(*parallel.own_update(name.rpartition(".")[2], update.down, update.up))
        for name, update in adapter.items()
    }
