"""Linear layers in 8-bit floats, through the optional extra torchao, for GPUs that multiply them.

Inference only.
"""

import torch
from torch import nn
from torch.nn import functional
from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_
from torchao.utils import TorchAOBaseTensor

_TINY = 1e-12  # the least scale: a row of zeros would become nan


class Float8Linear(nn.Module):
    """A linear layer of e4m3 weights; each row of the input is quantized to e4m3.

    With a scale per row of the input, the result of a row does not depend on other rows. The
    product is rounded before the bias is added. Takes bfloat16. Raises ValueError if a size is not
    a multiple of 16.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        config = Float8DynamicActivationFloat8WeightConfig(
            granularity=PerRow(),
            activation_value_lb=_TINY,
            set_inductor_config=False,  # of torch.compile, which nothing here uses
        )
        quantize_(linear, config)
        self.weight = linear.weight
        if not isinstance(
            self.weight.data, TorchAOBaseTensor
        ):  # torchao leaves it as it was, without an error
            sizes = f"{linear.out_features} x {linear.in_features}"
            raise ValueError(f"quantization fp8 needs sizes that are multiples of 16, not {sizes}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product = functional.linear(input, self.weight)
        return product if self.bias is None else product + self.bias
