"""Choose the number of KV cache blocks, and forecast how a device's memory is shared out.

Weights come first, then blocks in what they leave free. `choose_num_blocks` chooses the blocks for
an engine and for the forecasts, so their numbers agree.
"""

from dataclasses import dataclass

import torch

from worker import host_memory
from worker.engine.config import EngineConfig
from worker.engine.memory.host_forecast import PROCESS_BYTES, HostForecast
from worker.model.config import ModelConfig

SHARE_OF_FREE_MEMORY = {"cuda": 0.85, "cpu": 0.5}  # the rest is for activations and other processes
MOST_FULL_ROWS = 32  # sequences of full length, on a CPU, if no setting gives the rows
# What CUDA, its libraries and torch keep for themselves: an estimate.
_TAKEN_BY_CUDA = 2**29


def choose_num_blocks(
    config: EngineConfig,
    model_config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    free_bytes: int,
    num_parts: int = 1,
    step_bytes: int = 0,
) -> int:
    """Return `config.num_blocks`, or enough for `max_rows` sequences of full length if they fit.

    On a CPU, rows that no setting gives count up to 32: rows are seldom full, and the cache takes
    memory from other processes.

    `free_bytes` are free after the weights; the largest step needs `step_bytes` of them. Each of
    `num_parts` tensor-parallel parts holds its share of a block, on its own GPU; on CPUs all share
    one memory. Raises ValueError if not one block fits.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    is_chosen = device.type == "cpu" and "max_rows" in config.open_limits
    num_full_rows = min(config.max_rows, MOST_FULL_ROWS) if is_chosen else config.max_rows
    wanted = num_full_rows * -(-model_config.context_length // config.block_size)
    bytes_per_block = config.block_size * model_config.kv_bytes_per_token(dtype)
    if device.type != "cpu":
        bytes_per_block //= num_parts
    most = min(int(free_bytes * SHARE_OF_FREE_MEMORY[device.type]), free_bytes - step_bytes)
    num_fitting = most // bytes_per_block
    if num_fitting < 1:
        raise ValueError(
            f"no memory left for a KV cache on {device}: "
            "free some, or set --kv-tokens (num_blocks of EngineConfig)"
        )
    return min(wanted, num_fitting)


def free_memory(device: torch.device, limit: int | None = None, *, num_parts: int = 1) -> int:
    """Return the free bytes of a device.

    `limit` is what `num_parts` processes together may take of the host's memory, in equal shares.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory that loading has freed counts as free
        return torch.cuda.mem_get_info(device)[0]
    part_limit = None if limit is None else limit // num_parts
    free = host_memory.free_memory()
    left = host_memory.free_memory(part_limit)
    return min(free.num_bytes, num_parts * left.num_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The use of one device's memory."""

    weight_bytes: int
    kv_bytes_per_token: int
    context_length: int  # most tokens of a sequence
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
        """Make the plan of one of `num_parts` parts; `weight_bytes` is the size of the part."""
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
        """Return how many sequences of `num_tokens` the KV cache holds at once."""
        return self.num_blocks // -(-num_tokens // self.block_size)


def forecast_gpu(
    model_config: ModelConfig,
    config: EngineConfig,
    *,
    dtype: torch.dtype,
    memory_bytes: int,
    weight_bytes: int | None = None,
) -> MemoryPlan:
    """Forecast the plan of an engine on a GPU with `memory_bytes` that runs nothing else.

    `weight_bytes` None means unquantized weights in `dtype`. Raises ValueError if the weights leave
    no room for a block.
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
    """Forecast the plan of an engine in a container with `memory_bytes` that runs one worker.

    Raises ValueError if the weights leave no room for a block.
    """
    dtype = host.variant.cache_dtype
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
