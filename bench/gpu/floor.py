"""Lower bound of a step's time: the bytes that it must move and the operations that it must do.

Both are computed from the model's shapes. Activations do not count, because caches may hold them.
"""

from dataclasses import dataclass

import torch

from bench.gpu.card import Card
from worker.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class StepCost:
    """Bytes and operations of a forward pass."""

    num_bytes: int
    num_flop: int

    def floor_s(self, card: Card) -> float:
        """Return the larger of both times: at best, memory and arithmetic overlap."""
        return max(self.num_bytes / card.bytes_per_s, self.num_flop / card.flop_per_s)


def decode_cost(
    config: ModelConfig, dtype: torch.dtype, *, num_rows: int, context: int
) -> StepCost:
    """Return the cost of one more token for each of `num_rows` sequences of `context` tokens."""
    kv_bytes = num_rows * context * config.kv_bytes_per_token(dtype)
    attended = num_rows * context
    num_flop = 2 * num_rows * _multiplied(config, head=True) + _attention_flop(config, attended)
    return StepCost(_read_weights(config) * dtype.itemsize + kv_bytes, num_flop)


def prefill_cost(config: ModelConfig, dtype: torch.dtype, *, num_tokens: int) -> StepCost:
    """Return the cost of a prompt's first `num_tokens` tokens, with logits of the last one."""
    attended = num_tokens * (num_tokens + 1) // 2
    head = config.vocab_size * config.hidden_size
    num_flop = 2 * (num_tokens * _multiplied(config, head=False) + head)
    kv_bytes = num_tokens * config.kv_bytes_per_token(dtype)  # written
    return StepCost(
        _read_weights(config) * dtype.itemsize + kv_bytes,
        num_flop + _attention_flop(config, attended),
    )


def _read_weights(config: ModelConfig) -> int:
    """Return the number of weights that a step reads: all but embeddings that are not tied."""
    untied = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return config.num_parameters - untied


def _multiplied(config: ModelConfig, *, head: bool) -> int:
    """Return the number of weights that each token is multiplied with, and the few others."""
    head_size = config.vocab_size * config.hidden_size
    return _read_weights(config) - (0 if head else head_size)


def _attention_flop(config: ModelConfig, attended: int) -> int:
    """Return the operations of attention: two products for each of `attended` pairs per head."""
    return 4 * config.num_layers * config.num_heads * config.head_dim * attended
