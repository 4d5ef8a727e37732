"""Whether a group could ever run: on an engine that has nothing else to do."""

from worker.engine.config import EngineConfig
from worker.engine.sequence_group import SequenceGroup


def check_fits(group: SequenceGroup, config: EngineConfig, *, num_blocks: int) -> None:
    """Raise ValueError, naming the limit, where rows or KV cache are too small for the group."""
    if group.num_rows > config.max_rows:
        raise ValueError(
            f"num_beams must be at most {config.max_rows}, the rows of a step, not {group.num_rows}"
        )
    if group.max_blocks(config.block_size) > num_blocks:
        sequences = "a sequence" if group.num_rows == 1 else f"{group.num_rows} sequences"
        # The last token of a sequence is never computed.
        raise ValueError(
            f"{sequences} of {group.sequences[0].max_length - 1} tokens cannot be held: "
            f"the KV cache has room for {num_blocks * config.block_size}"
        )
