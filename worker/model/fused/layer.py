"""A decoder layer of a few launches: kernels between matrix products, some of them merged.

A layer leaves its output to the next one to add, which needs the sum only to normalize it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from worker.model.config import BlockStyle
from worker.model.device_map import current_device
from worker.model.fused.interface import LayerKernels, Norm, Rotary, Update
from worker.model.layers.cuda_attention import Attention


@dataclass(frozen=True, slots=True)
class Product:
    """A linear layer and the bias that a kernel adds. A layer that adds its own bias has None."""

    compute: Callable[[torch.Tensor], torch.Tensor]
    bias: torch.Tensor | None = None

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        product = self.compute(input)
        return product if self.bias is None else product + self.bias


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """A decoder layer that shares the weights of the plain layer."""

    style: BlockStyle
    kernels: LayerKernels
    norms: Sequence[Norm]
    query_key_value: Product
    dense_h_to_4h: Product
    dense: Product
    dense_4h_to_h: Product
    heads_width: int  # of all query, key and value heads together
    context_width: int
    wide_width: int
    # The products of one input as one: [heads_width + wide_width, hidden_size].
    merged_in: torch.Tensor | None
    # The products that are added as one, on joined inputs: [hidden_size, context + wide width].
    merged_out: torch.Tensor | None
    sum: Callable[[torch.Tensor], torch.Tensor]  # over the processes of a split network

    def __call__(
        self, residual: torch.Tensor, update: Update | None, attention: "LayerAttention"
    ) -> tuple[torch.Tensor, Update]:
        """Return the residual and what is to be added to it: the output of the layer."""
        if self.style is BlockStyle.SEQUENTIAL:
            return self._in_sequence(residual, update, attention)
        residual, normed = self.kernels.add_and_normalize(residual, update, self.norms)
        fused, wide = self._project_in(normed[0], normed[-1])
        context, activated, joined = self._buffers(len(residual))
        self._attend(fused, attention, context)
        self.kernels.activate(wide, self.dense_h_to_4h.bias, activated)
        if self.merged_out is not None:
            output = joined @ self.merged_out.T
        else:
            output = self.dense_4h_to_h(activated) + self.dense(context)
        return residual, Update(self.sum(output))

    def _in_sequence(
        self, residual: torch.Tensor, update: Update | None, attention: "LayerAttention"
    ) -> tuple[torch.Tensor, Update]:
        before, after = self.norms
        residual, [normed] = self.kernels.add_and_normalize(residual, update, [before])
        context, activated, _ = self._buffers(len(residual))
        self._attend(self.query_key_value.compute(normed), attention, context)
        attended = Update(self.sum(self.dense.compute(context)), self.dense.bias)
        residual, [normed] = self.kernels.add_and_normalize(residual, attended, [after])
        wide = self.dense_h_to_4h.compute(normed)
        self.kernels.activate(wide, self.dense_h_to_4h.bias, activated)
        output = self.dense_4h_to_h.compute(activated)
        return residual, Update(self.sum(output), self.dense_4h_to_h.bias)

    def _project_in(
        self, for_attention: torch.Tensor, for_mlp: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.merged_in is None:
            fused = self.query_key_value.compute(for_attention)
            return fused, self.dense_h_to_4h.compute(for_mlp)
        both = for_attention @ self.merged_in.T
        fused, wide = torch.split(both, [self.heads_width, self.wide_width], dim=1)
        return fused, wide

    def _buffers(self, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return room for contexts, for activations, and for both side by side if merged."""
        widths = [self.context_width, self.wide_width]
        weight = self.norms[0].weight
        if self.merged_out is None:
            context, activated = (weight.new_empty((num_tokens, width)) for width in widths)
            return context, activated, activated
        joined = weight.new_empty((num_tokens, sum(widths)))
        context, activated = torch.split(joined, widths, dim=1)
        return context, activated, joined

    def _attend(
        self, fused: torch.Tensor, attention: "LayerAttention", context: torch.Tensor
    ) -> None:
        plan, slot = attention.plan, attention.layer
        query = self.kernels.place_heads(
            fused,
            self.query_key_value.bias,
            attention.rotary,
            plan.slot_mapping,
            plan.kv_cache.keys[slot],
            plan.kv_cache.values[slot],
        )
        plan.attend(slot, query, context.view(query.shape))


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """The attention of one layer in a step."""

    plan: Attention
    rotary: Rotary | None
    layer: int  # of the cache


@dataclass(frozen=True, slots=True)
class FusedNetwork:
    """The decoder layers of a network."""

    layers: Sequence[FusedLayer]

    def run(
        self,
        layers: range,
        hidden_states: torch.Tensor,
        rotary: Rotary | None,
        attention: Attention,
    ) -> torch.Tensor:
        """Run the layers whose keys and values one cache holds."""
        residual, update = hidden_states, None
        with current_device(hidden_states.device):  # Triton launches kernels on the current GPU
            for slot, index in enumerate(layers):
                place = LayerAttention(attention, rotary, slot)
                residual, update = self.layers[index](residual, update, place)
        return residual if update is None else update.added_to(residual)
