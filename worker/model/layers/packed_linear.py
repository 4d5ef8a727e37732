"""Linear layers for the CPU: weights laid out once the way the matrix product reads them.

torch re-orders a plain weight on every call, which at a few dozen rows takes longer than the
product. Inference only.
"""

from collections.abc import Callable

import torch
from torch import nn

from worker.model.layers.quantization import quantize_rows

# Inputs get 7 bits, without a sign: CPUs that lack VNNI add up pairs of products in 16 bits, and
# twice 127 x 127 is the most that fits. With a sign, oneDNN has no fast way at all.
_INPUT_MAX = 63
_ZERO_POINT = 64
_TINY = 1e-30  # a row of zeros has no scale


class PackedLinear(nn.Module):
    """`input @ weight.T + bias` in float32, by the oneDNN calls that torch.compile makes too."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._weight, self.bias, "none", [], ""
        )
        return product


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights; each row of the input is rounded to 7 bits on the fly.

    A scale per row of the input keeps a row's result free of its company.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        weight, scale = quantize_rows(linear.weight.detach())
        self._weight = torch.ops.onednn.qlinear_prepack(weight, None)
        self._weight_scale = scale[:, 0].contiguous()
        self._weight_zero_point = torch.zeros(len(weight), dtype=torch.int64)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        scale = input.abs().amax(dim=-1, keepdim=True).clamp_(min=_TINY) / _INPUT_MAX
        rounded = (input / scale).round_().add_(_ZERO_POINT).to(torch.uint8)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            *(rounded, 1.0, _ZERO_POINT),
            *(self._weight, self._weight_scale, self._weight_zero_point, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        product = product.mul_(scale)
        return product if self.bias is None else product.add_(self.bias)


def replace_linears(model: nn.Module, kind: Callable[[nn.Linear], nn.Module]) -> None:
    """Swap every linear layer of a module, in place; each old weight is freed before the next."""
    # A list of all modules would hold the old layers, and with them the model twice.
    parents = [module for module in model.modules() if not isinstance(module, nn.Linear)]
    for parent in parents:
        for name in [name for name, _ in parent.named_children()]:
            child = parent.get_submodule(name)
            if isinstance(child, nn.Linear):
                setattr(parent, name, kind(child))


def can_pack() -> bool:
    """Whether this build of torch has oneDNN's packed weights."""
    return hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
