"""What is computed before the first request, so that no caller waits while kernels are loaded."""

import torch

from worker.engine.execution.packed_batch import PackedStep

NUM_ROWS = (1, 2)  # libraries compute one row and several in different ways
CHUNK_TOKENS = 256  # a GPU has other kernels for a prompt's products and its attention


def warm_up_steps(device: torch.device, *, num_blocks: int, block_size: int) -> list[PackedStep]:
    """First tokens of nobody's sequences; on a GPU also a prompt's chunk, as long as the cache."""
    steps = [PackedStep.of_first_tokens(num_rows) for num_rows in NUM_ROWS]
    if device.type == "cuda":
        num_tokens = min(CHUNK_TOKENS, num_blocks * block_size)
        steps.append(PackedStep.of_first_chunk(num_tokens, block_size))
    return steps
