"""The placement of a network with decoder layers on several devices."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

_IN_LAYER = re.compile(r"transformer\.h\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class DeviceMap:
    main: torch.device  # holds everything but the decoder layers in `layers`
    layers: Mapping[range, torch.device] = field(default_factory=dict)

    def of_layer(self, layer: int) -> torch.device:
        return next((device for own, device in self.layers.items() if layer in own), self.main)

    def of_parameter(self, name: str) -> torch.device:
        in_layer = _IN_LAYER.match(name)
        return self.of_layer(int(in_layer[1])) if in_layer else self.main
