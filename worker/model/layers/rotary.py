"""Positions: rotary embeddings (Su et al. 2021) and ALiBi biases (Press et al. 2022).

Both equal transformers' Falcon to the last bit, with the same roundings.
"""

import math

import torch
from torch import nn

from worker.model.config import ModelConfig
from worker.model.errors import CheckpointError


class RotaryEmbedding(nn.Module):
    """Cosines and sines of positions, for a static rope type."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inv_freq, self.attention_scaling = compute_inv_freq(config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)

    def forward(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cosines and sines of int64 positions, each [num_tokens, 1, head_dim]."""
        angles = positions[:, None].float() * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        cosines = angles.cos() * self.attention_scaling
        sines = angles.sin() * self.attention_scaling
        return cosines.to(dtype), sines.to(dtype)


def apply_rotary(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate heads [num_tokens, num_heads, head_dim]; pairs are (i, i + head_dim / 2)."""
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


def compute_inv_freq(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """Return angular frequencies, float32 [head_dim / 2] on the CPU, and the factor of cos and sin.

    Raises CheckpointError if the scaling lacks a parameter that its type needs.
    """
    parameters = config.rope_parameters
    with torch.device("cpu"):  # also when the network is made on another device
        if parameters["rope_type"] not in ("default", "dynamic"):
            return _scaled_inv_freq(config)
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return torch.pow(parameters["rope_theta"], exponents).reciprocal(), 1.0


def _scaled_inv_freq(config: ModelConfig) -> tuple[torch.Tensor, float]:
    from transformers import FalconConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = dict(config.rope_parameters)
    try:
        reference = FalconConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_heads,
            max_position_embeddings=config.context_length,
            rope_parameters=parameters,
        )
        inv_freq, attention_scaling = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](reference)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: rope scaling {parameters}: {error}") from error
    return inv_freq.float(), float(attention_scaling)


def alibi_slopes(num_heads: int) -> torch.Tensor:
    """Return how fast each head's attention falls with distance, bfloat16 [num_heads] on the CPU.

    The published models were trained with slopes, and products of slope and position, rounded to
    bfloat16. Exact values would change their output.
    """
    power_of_2 = 2 ** math.floor(math.log2(num_heads))
    with torch.device("cpu"):
        slopes = _geometric(power_of_2, torch.arange(1, 1 + power_of_2))
        if power_of_2 < num_heads:
            odd = torch.arange(1, 1 + 2 * (num_heads - power_of_2), 2)
            slopes = torch.cat([slopes, _geometric(2 * power_of_2, odd)])
    return slopes.bfloat16()


def _geometric(num_heads: int, powers: torch.Tensor) -> torch.Tensor:
    """Return the slopes at `powers` of a network with `num_heads` heads, a power of 2."""
    base = torch.tensor(2 ** (-(2 ** -(math.log2(num_heads) - 3))))
    return torch.pow(base, powers.int())


def alibi_bias(
    slopes: torch.Tensor, num_positions: int, head_dim: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return ALiBi's bias of scaled scores for keys at positions 0…: [num_heads, num_positions].

    It depends on the key's position alone: the query's part is the same for all keys, and softmax
    ignores it.
    """
    positions = torch.arange(num_positions, device=slopes.device)
    return (slopes[:, None] * positions).to(dtype) / math.sqrt(head_dim)
