"""How many KV cache blocks an engine gets when nobody says: what its rows need, or what fits."""

import torch

from worker import host_memory
from worker.engine.config import EngineConfig
from worker.model.config import ModelConfig

SHARE_OF_FREE_MEMORY = {"cuda": 0.85, "cpu": 0.5}  # the rest is for activations and neighbours


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
    """`config.num_blocks`, or enough for `max_rows` sequences of full length if memory allows.

    `free_bytes` beside the weights, of which the largest step needs `step_bytes`. Of a network in
    `num_parts` parts, each holds its share of a block: on a device of its own, but all in the
    memory of one machine where they run on CPUs. Raises ValueError when not one block fits.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    wanted = config.max_rows * -(-model_config.context_length // config.block_size)
    bytes_per_block = config.block_size * model_config.kv_bytes_per_token(dtype)
    if device.type != "cpu":
        bytes_per_block //= num_parts
    most = min(int(free_bytes * SHARE_OF_FREE_MEMORY[device.type]), free_bytes - step_bytes)
    num_fitting = most // bytes_per_block
    if num_fitting < 1:
        raise ValueError(f"no memory left for a KV cache on {device}; set num_blocks or free some")
    return min(wanted, num_fitting)


def free_memory(device: torch.device, limit: int | None = None, *, num_parts: int = 1) -> int:
    """Bytes a new allocation may hope for.

    `limit` is on what `num_parts` processes take of the host's memory together: each alike.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what loading is done with counts as free, too
        return torch.cuda.mem_get_info(device)[0]
    part_limit = None if limit is None else limit // num_parts
    free = host_memory.free_memory()
    left = host_memory.free_memory(part_limit)
    return min(free.num_bytes, num_parts * left.num_bytes)
