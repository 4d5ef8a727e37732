"""The Falcon network on packed tokens: sequences end to end, without padding.

Modules have the names of the published checkpoints (Almazrouei et al. 2023).
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

import torch
from torch import nn
from torch.nn import LayerNorm

from worker.model.config import BlockStyle, ModelConfig
from worker.model.errors import CheckpointError
from worker.model.kv_cache import AttentionMetadata, KVCache
from worker.model.layers.cuda_attention import Attention, plan_attention
from worker.model.layers.rotary import RotaryEmbedding, alibi_slopes, apply_rotary
from worker.model.lora import AdapterTokens, LayerUpdates
from worker.model.tensor_parallel import TensorParallel

UNSPLIT = TensorParallel()
NO_ADAPTERS = AdapterTokens()

# Attention of one layer: query, key and value in, contexts out.
LayerAttention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class FalconLinear(nn.Linear):
    """A linear layer that rounds the product before it adds the bias, as in training."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output = self.multiply(input)
        return output if self.bias is None else output + self.bias

    def multiply(self, input: torch.Tensor) -> torch.Tensor:
        return input @ self.weight.T


class FalconEmbedding(nn.Embedding):
    """An embedding table without random initialization, which would import torch's compiler."""

    def reset_parameters(self) -> None:
        pass


class FalconAttention(nn.Module):
    """Multi-query or grouped attention: one fused projection in, one projection out."""

    def __init__(self, config: ModelConfig, parallel: TensorParallel) -> None:
        super().__init__()
        self.config = config
        self.num_kv_heads = parallel.share(config.num_kv_heads)
        heads_width, context_width = self.widths()
        self.query_key_value = FalconLinear(config.hidden_size, heads_width, bias=config.bias)
        self.dense = FalconLinear(context_width, config.hidden_size, bias=config.bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        attention: LayerAttention,
        updates: LayerUpdates,
    ) -> torch.Tensor:
        fused = self.query_key_value(hidden_states)
        fused = updates.add("query_key_value", hidden_states, fused)
        query, key, value = self.split_heads(fused)
        if rotary is not None:
            query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
        context = attention(query, key, value).flatten(1)
        return updates.add("dense", context, self.dense(context))

    def widths(self) -> tuple[int, int]:
        """Return the size of all heads of a token together, and that of its context."""
        group, head_dim = self.config.num_heads_per_kv_head, self.config.head_dim
        return self.num_kv_heads * (group + 2) * head_dim, self.num_kv_heads * group * head_dim

    def split_heads(self, fused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Split into query [num_tokens, num_heads, head_dim], key and value [num_tokens, kv, …].

        All styles have one layout: for each KV head its query heads, its key, its value. falcon-7b
        has one KV head; falcon-rw has one query head per KV head.
        """
        group = self.config.num_heads_per_kv_head
        heads = fused.view(-1, self.num_kv_heads, group + 2, self.config.head_dim)
        return heads[:, :, :-2].flatten(1, 2), heads[:, :, -2], heads[:, :, -1]


class FalconMLP(nn.Module):
    def __init__(self, config: ModelConfig, parallel: TensorParallel) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.width = ffn = parallel.share(config.ffn_hidden_size)
        self.dense_h_to_4h = FalconLinear(hidden, ffn, bias=config.bias)
        self.act = _activation(config.activation)
        self.dense_4h_to_h = FalconLinear(ffn, hidden, bias=config.bias)

    def forward(self, hidden_states: torch.Tensor, updates: LayerUpdates) -> torch.Tensor:
        wide = updates.add("dense_h_to_4h", hidden_states, self.dense_h_to_4h(hidden_states))
        activated = self.act(wide)
        return updates.add("dense_4h_to_h", activated, self.dense_4h_to_h(activated))


def _activation(name: str) -> nn.Module:
    if name == "gelu":
        return nn.GELU()
    from transformers.activations import ACT2FN  # takes two seconds; few checkpoints need it

    if name not in ACT2FN:
        raise CheckpointError(f"config.json: unknown activation {name!r}")
    activation: nn.Module = ACT2FN[name]
    return activation


class FalconDecoderLayer(nn.Module):
    # Each block style has some of these; see `_layer_norm_names`.
    input_layernorm: LayerNorm
    post_attention_layernorm: LayerNorm
    ln_attn: LayerNorm
    ln_mlp: LayerNorm

    def __init__(self, config: ModelConfig, parallel: TensorParallel) -> None:
        super().__init__()
        self.block_style = config.block_style
        self.parallel = parallel
        self.self_attention = FalconAttention(config, parallel)
        self.mlp = FalconMLP(config, parallel)
        for name in _layer_norm_names(config.block_style):
            self.add_module(name, LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon))

    def norms(self) -> list[LayerNorm]:
        """Return the norm before attention, then the one before the MLP if that is another."""
        return [getattr(self, name) for name in _layer_norm_names(self.block_style)]

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        attention: LayerAttention,
        updates: LayerUpdates,
    ) -> torch.Tensor:
        attend = partial(self.self_attention, rotary=rotary, attention=attention, updates=updates)
        mlp = partial(self.mlp, updates=updates)
        residual = hidden_states
        match self.block_style:
            case BlockStyle.PARALLEL:
                normed = self.input_layernorm(residual)
                output = mlp(normed) + attend(normed)
            case BlockStyle.PARALLEL_TWO_NORMS:
                output = mlp(self.ln_mlp(residual)) + attend(self.ln_attn(residual))
            case BlockStyle.SEQUENTIAL:
                attended = attend(self.input_layernorm(residual))
                residual = residual + self.parallel.sum(attended)
                output = mlp(self.post_attention_layernorm(residual))
        hidden_states = residual + self.parallel.sum(output)
        return hidden_states


def _layer_norm_names(block_style: BlockStyle) -> tuple[str, ...]:
    match block_style:
        case BlockStyle.PARALLEL:
            return ("input_layernorm",)
        case BlockStyle.PARALLEL_TWO_NORMS:
            return ("ln_attn", "ln_mlp")
        case BlockStyle.SEQUENTIAL:
            return ("input_layernorm", "post_attention_layernorm")


class FusedLayers(Protocol):
    """All decoder layers of a network, in fewer operations, with the same weights."""

    def run(
        self,
        layers: range,
        hidden_states: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        attention: Attention,
    ) -> torch.Tensor:
        """Run the layers whose keys and values one cache holds."""
        ...


class FalconModel(nn.Module):
    alibi_slopes: torch.Tensor | None

    def __init__(self, config: ModelConfig, parallel: TensorParallel) -> None:
        super().__init__()
        self.group = config.num_heads_per_kv_head
        self.fused: FusedLayers | None = None  # set by `fuse_layers`
        self.word_embeddings = FalconEmbedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(
            FalconDecoderLayer(config, parallel) for _ in range(config.num_layers)
        )
        self.ln_f = LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.rotary_emb = None if config.alibi else RotaryEmbedding(config)
        slopes = parallel.own(alibi_slopes(config.num_heads)) if config.alibi else None
        self.register_buffer("alibi_slopes", slopes, persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        kv_caches: Sequence[KVCache],
        metadata: AttentionMetadata,
        adapters: AdapterTokens,
    ) -> torch.Tensor:
        embedded: torch.Tensor = self.word_embeddings(input_ids).to(self.ln_f.weight.dtype)
        rotary, hidden_states = None, embedded
        if self.rotary_emb is not None:
            rotary = self.rotary_emb(positions, embedded.dtype)
        layers = enumerate(self.h)
        for kv_cache in kv_caches:  # one for each run of layers on one device
            device = kv_cache.keys.device
            hidden_states, adapters = hidden_states.to(device), adapters.to(device)
            if rotary is not None:
                rotary = rotary[0].to(device), rotary[1].to(device)
            slopes = None if self.alibi_slopes is None else self.alibi_slopes.to(device)
            attention = plan_attention(kv_cache, metadata.to(device), slopes, self.group)
            own = list(islice(layers, kv_cache.num_layers))
            if self.fused is not None and not adapters.parts:
                indices = range(own[0][0], own[-1][0] + 1)
                hidden_states = self.fused.run(indices, hidden_states, rotary, attention)
                continue
            for slot, (index, layer) in enumerate(own):
                updates = adapters.in_layer(index)
                hidden_states = layer(hidden_states, rotary, partial(attention, slot), updates)
        normed: torch.Tensor = self.ln_f(hidden_states.to(embedded.device))
        return normed


class FalconForCausalLM(nn.Module):
    """Falcon with its language-model head, or one rank's part of it."""

    def __init__(self, config: ModelConfig, parallel: TensorParallel = UNSPLIT) -> None:
        super().__init__()
        self.config = config
        self.num_kv_heads = parallel.share(config.num_kv_heads)  # of this part
        self.transformer = FalconModel(config, parallel)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        kv_caches: Sequence[KVCache],
        metadata: AttentionMetadata,
        adapters: AdapterTokens = NO_ADAPTERS,
    ) -> torch.Tensor:
        """Run one packed step and write its keys and values into the caches.

        `kv_caches`: one for each run of decoder layers on one device, in order. `input_ids` and
        `positions`: int64 [num_tokens]; positions count from 0 in each sequence. Returns the last
        hidden states, [num_tokens, hidden_size] in the model's dtype.
        """
        hidden_states: torch.Tensor = self.transformer(
            input_ids, positions, kv_caches, metadata, adapters
        )
        return hidden_states

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.ln_f.weight.dtype  # embeddings may have a smaller one

    @property
    def device(self) -> torch.device:
        return self.transformer.word_embeddings.weight.device

    @property
    def layer_devices(self) -> list[torch.device]:
        return [next(layer.parameters()).device for layer in self.transformer.h]

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 [n, vocab_size], of the rows [n, hidden_size] that need them."""
        logits: torch.Tensor = self.lm_head(hidden_states)
        return logits.float()
