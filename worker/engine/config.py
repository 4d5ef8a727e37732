"""How much the engine may run at once. Knows nothing of models, devices or memory."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one engine; a wrong combination raises ValueError.

    `max_rows`: sequences in one step. `num_blocks` blocks of `block_size` tokens: the KV
    cache; `None` takes what `max_rows` sequences of full length need, or what fits in free memory.
    `max_step_tokens`: tokens one step may compute, so that long prompts come in chunks.
    `max_chunk_tokens`: how many of them one prompt may get while others decode, whose next tokens
    the step holds up; half as many once 1,024 of its tokens are computed.
    `prompt_lookup_num_tokens`: drafts per step for whoever does not say; `None` is none.
    `max_drafting_tokens`: drafts fill a step up to so many tokens, those that cost it little.
    """

    max_rows: int = 32
    num_blocks: int | None = None
    block_size: int = 32
    max_step_tokens: int = 512
    max_chunk_tokens: int = 32
    prompt_lookup_num_tokens: int | None = None
    max_drafting_tokens: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"{field.name} must be at least 1, not {value}")
        if self.max_step_tokens < self.max_rows:
            # Every running sequence gets at least its one token in every step.
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must not be below "
                f"max_rows ({self.max_rows})"
            )
