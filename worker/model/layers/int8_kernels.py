"""Triton kernel of the product with 8-bit weights, for few rows of inputs in 16 bits.

Only `weight_only_linear` imports the module, because it needs Triton. Weights are read as they are,
and converted in registers.
"""

import torch
import triton
import triton.language as tl

MAX_ROWS = 256  # above, torch's product of converted weights is faster, by arithmetic
OUTPUTS = tl.constexpr(32)  # that one program computes
TILE_SIZE = 8192  # numbers of the inputs in one product: larger tiles spill registers
MOST_COLUMNS = 256
SMALLEST_TILE, LARGEST_TILE = 16, 64  # rows of tiles on tensor cores


def multiply_int8(input: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return `input @ (weight * scale[:, None]).T`, summed in float32 and rounded once.

    `input` [num_rows, columns] in float16 or bfloat16, `weight` int8 [outputs, columns], `scale`
    [outputs] in the dtype of the input.
    """
    num_rows, _ = input.shape
    output = input.new_empty((num_rows, len(weight)))
    if num_rows:
        constants = product_constants(num_rows, *weight.shape)
        grid = triton.cdiv(len(weight), OUTPUTS.value), triton.cdiv(num_rows, constants["ROWS"])
        multiply_tile[grid](*(input, weight, scale, output, num_rows, input.stride(0)), **constants)
    return output


def product_constants(num_rows: int, num_outputs: int, num_columns: int) -> dict[str, int]:
    """Return what `multiply_tile` is compiled with, and its warps and stages."""
    rows = min(LARGEST_TILE, max(SMALLEST_TILE, triton.next_power_of_2(num_rows)))
    return {
        "NUM_OUTPUTS": num_outputs,
        "NUM_COLUMNS": num_columns,
        "ROWS": rows,
        "COLUMNS": min(MOST_COLUMNS, TILE_SIZE // rows),
        "num_warps": 4,
        "num_stages": 3,
    }


# The number of rows changes with each step.
@triton.jit(do_not_specialize=["num_rows"])
def multiply_tile(
    input: tl.tensor,  # [num_rows, NUM_COLUMNS], rows `stride` apart
    weight: tl.tensor,  # int8 [NUM_OUTPUTS, NUM_COLUMNS]
    scale: tl.tensor,  # [NUM_OUTPUTS]
    output: tl.tensor,  # [num_rows, NUM_OUTPUTS]
    num_rows: tl.tensor,
    stride: tl.tensor,
    NUM_OUTPUTS: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Compute some outputs of some rows."""
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    is_output, is_row = outputs < NUM_OUTPUTS, (rows < num_rows)[:, None]
    weights = weight + outputs.to(tl.int64)[None, :] * NUM_COLUMNS
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for first in range(0, NUM_COLUMNS, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        exists = columns < NUM_COLUMNS
        x = tl.load(
            input + rows[:, None] * stride + columns[None, :],
            mask=is_row & exists[None, :],
            other=0.0,
        )
        w = tl.load(weights + columns[:, None], mask=exists[:, None] & is_output[None, :], other=0)
        total = tl.dot(x, w.to(x.dtype), total)
    scales = tl.load(scale + outputs, mask=is_output, other=0.0).to(tl.float32)
    cells = output + rows[:, None] * NUM_OUTPUTS + outputs[None, :]
    product = (total * scales[None, :]).to(output.dtype.element_ty)
    tl.store(cells, product, mask=is_row & is_output[None, :])
