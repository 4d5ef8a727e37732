"""How much the engine may run at once. Knows nothing of models, devices or memory."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one engine; a wrong combination raises ValueError.

    `max_rows`: sequences in one step. `num_blocks` blocks of `block_size` tokens: the KV
    cache; `None` takes what `max_rows` sequences of full length need, or what fits in free memory.
    `max_step_tokens`: tokens one step may compute, so that long prompts come in chunks.
    """

    max_rows: int = 32
    num_blocks: int | None = None
    block_size: int = 16
    max_step_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("max_rows", "num_blocks", "block_size", "max_step_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.max_step_tokens < self.max_rows:
            # Every running sequence gets at least its one token in every step.
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must not be below "
                f"max_rows ({self.max_rows})"
            )
