"""Limits of what one engine runs at once."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The limits of one engine. Raises ValueError for a wrong combination."""

    max_rows: int = 32  # sequences in one step
    # Blocks of the KV cache. None: as many as `max_rows` sequences of full length need, or as many
    # as fit in free memory.
    num_blocks: int | None = None
    block_size: int = 32  # tokens per block
    max_step_tokens: int = 512  # tokens that one step computes: longer prompts come in chunks
    # Tokens of prompts in a step while one sequence decodes: they take as long as that step alone.
    # Each further decoding sequence adds one token, and prompts from the third on add time.
    max_chunk_tokens: int = 16
    # Draft tokens per sequence and step, for requests that do not say. None: no drafts.
    prompt_lookup_num_tokens: int | None = None
    max_drafting_tokens: int = 16  # drafts fill a step up to this many tokens, which are cheap

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
