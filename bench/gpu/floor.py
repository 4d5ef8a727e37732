"""The least that a step can take: bytes it must move, operations it must do. Arithmetic alone."""

from dataclasses import dataclass

import torch

from bench.gpu.card import Card
from worker.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one forward pass cannot do without; activations, which caches may hold, do not count."""

    num_bytes: int
    num_flop: int

    def floor_s(self, card: Card) -> float:
        """Memory and arithmetic overlap at best: the slower of them."""
        return max(self.num_bytes / card.bytes_per_s, self.num_flop / card.flop_per_s)


def decode_cost(
    config: ModelConfig, dtype: torch.dtype, *, num_rows: int, context: int
) -> StepCost:
    """One more token for each of `num_rows` sequences of `context` tokens, that one included."""
    kv_bytes = num_rows * context * config.kv_bytes_per_token(dtype)
    attended = num_rows * context
    num_flop = 2 * num_rows * _multiplied(config, head=True) + _attention_flop(config, attended)
    return StepCost(_read_weights(config) * dtype.itemsize + kv_bytes, num_flop)


def prefill_cost(config: ModelConfig, dtype: torch.dtype, *, num_tokens: int) -> StepCost:
    """A prompt's first `num_tokens`; logits are made of the last one alone."""
    attended = num_tokens * (num_tokens + 1) // 2
    head = config.vocab_size * config.hidden_size
    num_flop = 2 * (num_tokens * _multiplied(config, head=False) + head)
    kv_bytes = num_tokens * config.kv_bytes_per_token(dtype)  # written
    return StepCost(
        _read_weights(config) * dtype.itemsize + kv_bytes,
        num_flop + _attention_flop(config, attended),
    )


def _read_weights(config: ModelConfig) -> int:
    """All but the embeddings, of which a step reads some rows; tied, they are the head's."""
    untied = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return config.num_parameters - untied


def _multiplied(config: ModelConfig, *, head: bool) -> int:
    """Weights that every token is multiplied with. Norms and biases count, too: they are few."""
    head_size = config.vocab_size * config.hidden_size
    return _read_weights(config) - (0 if head else head_size)


def _attention_flop(config: ModelConfig, attended: int) -> int:
    """Two products for each pair of query and key, of `attended` pairs in each head."""
    return 4 * config.num_layers * config.num_heads * config.head_dim * attended
