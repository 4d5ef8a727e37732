"""The kernels of fused layers equal the reference, in Triton's interpreter.

`test_fused_kernels` runs this. The interpreter computes bfloat16 wrongly.
"""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.model.fused import kernels
from worker.model.fused.choice import LayerShape, largest_error
from worker.model.fused.interface import PlainKernels

SHAPES = st.builds(
    LayerShape,
    device=st.just(torch.device("cpu")),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    hidden_size=st.integers(1, 300),
    ffn_size=st.integers(1, 1100),
    num_kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 5, 16]),
    head_dim=st.sampled_from([2, 8, 24, 64]),
    num_norms=st.sampled_from([1, 2]),
    rotary=st.booleans(),
    bias=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3]),
)
FALCON_7B = LayerShape(
    device=torch.device("cpu"),
    dtype=torch.float16,
    hidden_size=4544,
    ffn_size=4 * 4544,
    num_kv_heads=1,
    group=71,
    head_dim=64,
    num_norms=1,
    rotary=True,
    bias=False,
    eps=1e-5,
)
# The sums of a norm have another order than torch's, and a rounding may then fall otherwise.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2}


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES)
@example(shape=FALCON_7B)
def test_the_kernels_equal_the_separate_operations(shape: LayerShape) -> None:
    assert largest_error(shape, kernels) <= TOLERANCES[shape.dtype]


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, num_tokens=st.integers(1, 5))
def test_heads_are_rotated_and_placed_bit_for_bit(shape: LayerShape, num_tokens: int) -> None:
    torch.manual_seed(0)
    width = shape.num_kv_heads * (shape.group + 2) * shape.head_dim
    fused = torch.randn(num_tokens, width).to(shape.dtype)
    bias = torch.randn(width).to(shape.dtype) if shape.bias else None
    half = torch.randn(2, num_tokens, 1, shape.head_dim // 2).to(shape.dtype)
    cosines, sines = torch.cat([half, half], -1).unbind()
    rotary = (cosines, sines) if shape.rotary else None
    slots = torch.randperm(9)[:num_tokens]
    results = []
    for own in (PlainKernels(), kernels):
        keys, values = torch.zeros(2, 9, shape.num_kv_heads, shape.head_dim, dtype=shape.dtype)
        query = own.place_heads(fused, bias, rotary, slots, keys, values)
        results.append(torch.cat([query.flatten(), keys.flatten(), values.flatten()]))
    assert torch.equal(*results)
