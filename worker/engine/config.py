"""Limits of what one engine runs at once."""

from dataclasses import dataclass, fields
from math import inf
from typing import Any

# Of the limits that the loader may lower. On a GPU, reading the weights takes as long as computing
# about 512 tokens: arithmetic, not measured.
_UPPER_BOUNDS = {
    "cpu": {"max_rows": 128, "max_step_tokens": 512, "max_chunk_tokens": 512},
    "cuda": {"max_rows": 256, "max_step_tokens": 2048, "max_chunk_tokens": 512},
}


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
    # Time that requests of batches may add to a step of others, as a share of that step's time.
    batch_share: float = 0.05
    # Draft tokens per sequence and step, for requests that do not say. None: no drafts.
    prompt_lookup_num_tokens: int | None = None
    max_drafting_tokens: int = 16  # drafts fill a step up to this many tokens, which are cheap

    # Names of the limits that no setting gives: the loader lowers them to suit model and machine.
    open_limits: frozenset[str] = frozenset()

    @classmethod
    def for_machine(cls, device: str, **given: Any) -> "EngineConfig":
        """Return a config with open limits: the absent or None of rows, step and chunk tokens.

        They have the upper bounds of `device`: cpu, cuda or cuda:N. Raises ValueError for a wrong
        combination.
        """
        bounds = _UPPER_BOUNDS["cuda" if device.startswith("cuda") else "cpu"]
        open_limits = frozenset(name for name in bounds if given.get(name) is None)
        limits = bounds | {name: given[name] for name in bounds if name not in open_limits}
        if "max_rows" in open_limits:
            limits["max_rows"] = min(limits["max_rows"], limits["max_step_tokens"])
        if "max_step_tokens" in open_limits:
            limits["max_step_tokens"] = max(limits["max_step_tokens"], limits["max_rows"])
        return cls(**{**given, **limits}, open_limits=open_limits)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is not float and isinstance(value, int) and value < 1:
                raise ValueError(f"{field.name} must be at least 1, not {value}")
        if not 0 <= self.batch_share < inf:
            raise ValueError(f"batch_share must be at least 0 and finite, not {self.batch_share}")
        if self.max_step_tokens < self.max_rows:
            # Every running sequence gets at least its one token in every step.
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must not be below "
                f"max_rows ({self.max_rows})"
            )
