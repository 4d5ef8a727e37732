"""How a device's memory is shared out: weights, then blocks of KV cache in what they leave free.

The same numbers before a model is loaded (`forecast_gpu`, `forecast_cpu`) and after:
`worker/engine/memory/kv_cache_size.py` chooses the blocks for both.
"""

from dataclasses import dataclass

import torch

from worker.engine.config import EngineConfig
from worker.engine.memory.host_forecast import PROCESS_BYTES, HostForecast
from worker.engine.memory.kv_cache_size import choose_num_blocks
from worker.model.config import ModelConfig

# What CUDA, its libraries and torch keep for themselves: an estimate, no card was at hand.
_TAKEN_BY_CUDA = 2**29


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Sizes in bytes, of one device; `context_length` is the longest a sequence may get."""

    weight_bytes: int
    kv_bytes_per_token: int
    context_length: int
    block_size: int
    num_blocks: int

    @classmethod
    def of(
        cls,
        model_config: ModelConfig,
        config: EngineConfig,
        dtype: torch.dtype,
        *,
        weight_bytes: int,
        num_blocks: int,
        num_parts: int = 1,
    ) -> "MemoryPlan":
        """`weight_bytes` of what the device holds: of one of `num_parts` parts, as its KV heads."""
        return cls(
            weight_bytes=weight_bytes,
            kv_bytes_per_token=model_config.kv_bytes_per_token(dtype) // num_parts,
            context_length=model_config.context_length,
            block_size=config.block_size,
            num_blocks=num_blocks,
        )

    @property
    def kv_bytes(self) -> int:
        return self.kv_tokens * self.kv_bytes_per_token

    @property
    def kv_tokens(self) -> int:
        return self.num_blocks * self.block_size

    def rows_of(self, num_tokens: int) -> int:
        """How many sequences of so many tokens the KV cache holds at once."""
        return self.num_blocks // -(-num_tokens // self.block_size)


def forecast_gpu(
    model_config: ModelConfig,
    config: EngineConfig,
    *,
    dtype: torch.dtype,
    memory_bytes: int,
    weight_bytes: int | None = None,
) -> MemoryPlan:
    """What an engine will choose on a GPU of so much memory that holds nothing else.

    `weight_bytes` None takes those of whole weights in `dtype`. Raises ValueError when the weights
    leave no room for a block.
    """
    if weight_bytes is None:
        weight_bytes = model_config.num_parameters * dtype.itemsize
    free_bytes = memory_bytes - weight_bytes - _TAKEN_BY_CUDA
    num_blocks = choose_num_blocks(
        config, model_config, dtype, torch.device("cuda"), free_bytes=free_bytes
    )
    return MemoryPlan.of(
        model_config, config, dtype, weight_bytes=weight_bytes, num_blocks=num_blocks
    )


def forecast_cpu(
    model_config: ModelConfig,
    config: EngineConfig,
    host: HostForecast,
    *,
    memory_bytes: int,
    weight_bytes: int,
) -> MemoryPlan:
    """What an engine will choose in a container of so much memory that holds its worker alone.

    Raises ValueError when the weights leave no room for a block.
    """
    dtype = host.way.dtype
    num_blocks = choose_num_blocks(
        config,
        model_config,
        dtype,
        torch.device("cpu"),
        free_bytes=memory_bytes - PROCESS_BYTES - host.resident_bytes,
        step_bytes=host.step_bytes,
    )
    return MemoryPlan.of(
        model_config, config, dtype, weight_bytes=weight_bytes, num_blocks=num_blocks
    )
