"""Linear layers for CPUs, with weights packed once in the layout of the matrix product.

torch re-orders a plain weight on every call; for a few dozen rows that takes longer than the
product. Inference only.
"""

from collections.abc import Callable

import torch
from torch import nn

from worker.model.layers.quantization import quantize_rows

PACKED_DTYPES = (torch.float32, torch.bfloat16)
# Inputs get 7 bits, unsigned: CPUs without VNNI add pairs of products in 16 bits, and twice
# 127 x 127 is the most that fits. For signed inputs oneDNN has no fast kernel.
_INPUT_MAX = 63
_ZERO_POINT = 64
_TINY = 1e-30  # the least scale: a row of zeros has none


class PackedLinear(nn.Module):
    """`input @ weight.T + bias` by the oneDNN calls of torch.compile.

    bfloat16 products are rounded before the bias is added, as in `FalconLinear`.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rounds_first = self.bias is not None and input.dtype == torch.bfloat16
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            input, self._weight, None if rounds_first else self.bias, "none", [], ""
        )
        return product + self.bias if rounds_first else product


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights; each row of the input is quantized to 7 bits.

    With a scale per row of the input, the result of a row does not depend on other rows.
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
        quantized = (input / scale).round_().add_(_ZERO_POINT).to(torch.uint8)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            *(quantized, 1.0, _ZERO_POINT),
            *(self._weight, self._weight_scale, self._weight_zero_point, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        product = product.mul_(scale)
        return product if self.bias is None else product.add_(self.bias)


def replace_linears(model: nn.Module, kind: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace every linear layer of a module, in place; free each weight before the next."""
    # A list of all modules would hold the old layers, and with them the model twice.
    parents = [module for module in model.modules() if not isinstance(module, nn.Linear)]
    for parent in parents:
        for name in [name for name, _ in parent.named_children()]:
            child = parent.get_submodule(name)
            if isinstance(child, nn.Linear):
                setattr(parent, name, kind(child))


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether this build of torch packs weights of this dtype for this CPU."""
    if dtype not in PACKED_DTYPES or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
