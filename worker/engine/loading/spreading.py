"""Which decoder layers go to which GPU: accelerate's `device_map="auto"`, KV cache included.

Arithmetic on the meta device: nothing is read or allocated.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby

import torch

from worker.engine.config import EngineConfig
from worker.engine.memory.kv_cache_size import SHARE_OF_FREE_MEMORY
from worker.model.config import ModelConfig
from worker.model.device_map import DeviceMap
from worker.model.falcon import FalconDecoderLayer, FalconForCausalLM

_GIB = 2**30
_KEPT_FREE = _GIB  # on each GPU, for activations: what little KV cache leaves is not enough
_NOWHERE = "disk"  # accelerate's word for layers that no device has room for


def spread(
    model_config: ModelConfig,
    config: EngineConfig,
    *,
    dtype: torch.dtype,
    free_bytes: Sequence[int],
) -> tuple[DeviceMap, int]:
    """A place for every layer on GPUs 0, 1, … with so much memory, and a number of KV blocks.

    GPUs are filled in their order. The blocks are those of `config` or, where it has none, those
    that its rows need, or as many as leave every layer a place. All but the layers is on GPU 0.
    Raises ValueError, naming what is missing, where the memory will not do.
    """
    shape = _Shape(model_config, config.block_size, dtype, free_bytes)
    num_blocks = config.num_blocks
    if num_blocks is None:
        most = config.max_rows * -(-model_config.context_length // config.block_size)
        num_blocks = max(1, bisect_left(range(1, most + 1), 1, key=shape.missing_bytes))
    if missing := shape.missing_bytes(num_blocks):
        raise ValueError(
            f"weights and {num_blocks} KV blocks do not fit on {len(free_bytes)} GPU(s): "
            f"{missing / _GIB:.1f} GiB are missing"
        )
    return _to_map(shape.place(num_blocks)), num_blocks


class _Shape:
    """A network without weights, and the room that its layers have on each GPU."""

    def __init__(
        self,
        model_config: ModelConfig,
        block_size: int,
        dtype: torch.dtype,
        free_bytes: Sequence[int],
    ) -> None:
        with torch.device("meta"):
            self._layers = FalconForCausalLM(model_config).to(dtype).transformer.h
        num_layers = len(self._layers)
        # What weights leave is not all for KV blocks: they count as more than they are.
        kv_bytes = block_size * model_config.kv_bytes_per_token(dtype) // num_layers
        self._block_bytes = int(kv_bytes / SHARE_OF_FREE_MEMORY["cuda"])
        self._weight_bytes = sum(weight.nbytes for weight in self._layers[0].parameters())
        rest = model_config.num_parameters * dtype.itemsize - num_layers * self._weight_bytes
        self._room = [num_bytes - _KEPT_FREE for num_bytes in free_bytes]
        self._room[0] -= rest

    def place(self, num_blocks: int) -> list[int | str]:
        """Where accelerate puts each layer: on the GPU of that number, or `_NOWHERE`."""
        from accelerate import infer_auto_device_map  # slow to import, and rarely needed

        layer_bytes = self._layer_bytes(num_blocks)
        for layer in self._layers:
            num_kv_bytes = layer_bytes - self._weight_bytes
            kv_cache = torch.empty(num_kv_bytes, dtype=torch.uint8, device="meta")
            layer.register_buffer("kv_cache", kv_cache)
        device_map = infer_auto_device_map(
            self._layers,
            max_memory=dict(enumerate(self._room)),
            no_split_module_classes=[FalconDecoderLayer.__name__],
            clean_result=False,
            offload_buffers=True,  # no warning: `_NOWHERE` ends in an error
        )
        return list(device_map.values())

    def missing_bytes(self, num_blocks: int) -> int:
        """What finds no place, with so many KV blocks; 0 where all does."""
        num_left = self.place(num_blocks).count(_NOWHERE)
        return num_left * self._layer_bytes(num_blocks) + max(0, -self._room[0])

    def _layer_bytes(self, num_blocks: int) -> int:
        return self._weight_bytes + num_blocks * self._block_bytes


def _to_map(places: list[int | str]) -> DeviceMap:
    layers: dict[range, torch.device] = {}
    for gpu, run in groupby(range(len(places)), places.__getitem__):
        own = list(run)
        layers[range(own[0], own[-1] + 1)] = torch.device("cuda", int(gpu))
    return DeviceMap(torch.device("cuda", 0), layers)
