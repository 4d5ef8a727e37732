"""Triton's kernels are right and compile for GPUs, shown without one.

`make triton-test` installs Triton, which the CPU build of torch lacks.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.worker.model.compiled_kernels import (
    ARCHITECTURES,
    check_resources,
    compile_for,
    interpret,
)

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs make triton-test")

HALF, SINGLE = torch.bfloat16, torch.float32
# Query heads of a KV head, head size, dtype, alibi: published models, then the largest that fit.
HEADS = [
    (71, 64, HALF, False),  # falcon-7b
    (16, 64, HALF, False),  # falcon-40b
    (4, 128, HALF, False),  # falcon-11b
    (1, 64, HALF, True),  # falcon-rw
    (1, 64, SINGLE, True),
    (128, 64, HALF, True),
    (64, 128, HALF, False),
    (32, 256, HALF, False),
    (71, 8, HALF, False),  # padded
]
BLOCK_SIZE = 32
POINTER_TYPES = {HALF: "*bf16", SINGLE: "*fp32"}


def test_the_kernels_are_right_in_the_interpreter() -> None:
    interpret("tests/worker/model/layers/interpreted_kernels.py")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("group", "head_dim", "dtype", "alibi"), HEADS)
def test_attention_to_splits_compiles_without_spilled_registers(
    arch: int,
    group: int,
    head_dim: int,
    dtype: torch.dtype,
    *,
    alibi: bool,
    compiler_cache: Path,
    tmp_path: Path,
) -> None:
    kernels = import_module("worker.model.layers.decode_kernels")
    constants = kernels.constants(group, head_dim, dtype) | {"BLOCK_SIZE": BLOCK_SIZE}
    num_warps = constants.pop("num_warps")
    pointer = POINTER_TYPES[dtype]
    types = dict.fromkeys(("query", "keys", "values", *["bias"] * alibi), pointer) | {
        "block_tables": "*i64",
        "context_lens": "*i32",
        "parts": "*fp32",
        "sums": "*fp32",
        "table_width": "i32",
        "bias_width": "i32",
    }
    constants |= {} if alibi else {"bias": None}
    compiled = compile_for(arch, kernels.attend_splits, types, constants, num_warps)
    check_resources(compiled, tmp_path)
    # Several programs fit into the shared memory of the smallest of the GPUs.
    assert compiled.metadata.shared <= 96 * 1024


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_combination_of_splits_compiles_without_spilled_registers(
    arch: int, compiler_cache: Path, tmp_path: Path
) -> None:
    kernels = import_module("worker.model.layers.decode_kernels")
    types = {
        "parts": "*fp32",
        "sums": "*fp32",
        "context_lens": "*i32",
        "output": "*bf16",
        "num_splits": "i32",
        "stride": "i32",
    }
    constants = {"NUM_HEADS": 71, "HEAD_DIM": 64, "DIM_PAD": 64}
    compiled = compile_for(arch, kernels.combine_splits, types, constants, num_warps=4)
    check_resources(compiled, tmp_path)
