"""Low-rank updates of linear layers (LoRA, Hu et al. 2021): merged into the weights, or served.

Served updates are added to each adapter's tokens of a packed step, as in S-LoRA (Sheng et al. 2023)
and Punica (Chen et al. 2023).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from worker.model.device_map import DeviceMap


@dataclass(frozen=True, slots=True)
class LowRank:
    """An adapter's update of the weight of one linear layer: `up @ down`."""

    down: torch.Tensor  # [rank, in_features]
    up: torch.Tensor  # [out_features, rank], multiplied by all scales

    def to(self, dtype: torch.dtype, device: torch.device) -> "LowRank":
        return LowRank(self.down.to(device, dtype), self.up.to(device, dtype))

    def apply(self, input: torch.Tensor) -> torch.Tensor:
        """Return what it adds to the output: [n, in_features] → [n, out_features]."""
        return (input @ self.down.T) @ self.up.T


LoraAdapter = Mapping[str, LowRank]  # by the name of the linear layer in the network


def merge_adapters(model: nn.Module, adapters: Sequence[LoraAdapter]) -> None:
    """Add all updates to the weights of `model`, in place."""
    for name in {name: None for adapter in adapters for name in adapter}:
        merge_into(model.get_submodule(name).get_parameter("weight"), name, adapters)


@torch.no_grad()
def merge_into(weight: torch.Tensor, name: str, adapters: Sequence[LoraAdapter]) -> None:
    """Add all updates of the linear layer `name`, in place: summed in float32, rounded once."""
    own = [adapter[name] for adapter in adapters if name in adapter]
    if not own:
        return
    total = weight.float()  # the one copy: the largest matrix of falcon-40b takes 1 GiB
    for update in own:
        total.addmm_(update.up.to(total), update.down.to(total))
    weight.copy_(total)


@dataclass(frozen=True, slots=True)
class LayerUpdates:
    """The updates of a step's adapters in one decoder layer."""

    # For each adapter: its updates by the name of the linear layer, and the indices of its packed
    # tokens, int64 [n]. No token has two adapters.
    parts: Sequence[tuple[Mapping[str, LowRank], torch.Tensor]] = ()

    def add(self, linear: str, input: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Add the updates of a linear layer to `output`, in place; return it.

        `input` [num_tokens, in_features] is the input of the layer, `output`
        [num_tokens, out_features] its output. Tokens without an adapter keep their output.
        """
        for updates, tokens in self.parts:
            update = updates.get(linear)
            if update is not None:
                output.index_add_(0, tokens, update.apply(input.index_select(0, tokens)))
        return output


class ServedAdapter:
    """An adapter in the dtype of the network, with each layer's updates on its device."""

    def __init__(
        self, adapter: LoraAdapter, num_layers: int, dtype: torch.dtype, device_map: DeviceMap
    ) -> None:
        self.layers: list[dict[str, LowRank]] = [{} for _ in range(num_layers)]
        for name, update in adapter.items():
            _, _, layer, _, linear = name.split(".")  # transformer.h.3.mlp.dense_h_to_4h
            device = device_map.of_layer(int(layer))
            self.layers[int(layer)][linear] = update.to(dtype, device)


@dataclass(frozen=True, slots=True)
class AdapterTokens:
    """The indices of the packed tokens of each adapter."""

    parts: Sequence[tuple[ServedAdapter, torch.Tensor]] = ()

    def to(self, device: torch.device) -> "AdapterTokens":
        return AdapterTokens([(adapter, tokens.to(device)) for adapter, tokens in self.parts])

    def in_layer(self, layer: int) -> LayerUpdates:
        return LayerUpdates([(adapter.layers[layer], tokens) for adapter, tokens in self.parts])
