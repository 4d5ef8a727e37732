"""Triton's kernels are right and compile for GPUs, shown without one.

`make triton-test` installs Triton, which the CPU build of torch lacks.
"""

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.source_tree import ROOT

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs make triton-test")

ARCHITECTURES = [80, 90, 100]  # A100, H100 and H200, B200
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
]
MAX_REGISTERS = 224  # of 255; close to that, compilers spill
BLOCK_SIZE = 32
POINTER_TYPES = {HALF: "*bf16", SINGLE: "*fp32"}


@pytest.fixture(autouse=True)
def settings_of_triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compile into an empty cache, without a warning of Triton 3.9."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")


def test_the_kernels_are_right_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, "tests/worker/model/layers/interpreted_kernels.py"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("group", "head_dim", "dtype", "alibi"), HEADS)
def test_attention_to_splits_compiles_without_spilled_registers(
    arch: int, group: int, head_dim: int, dtype: torch.dtype, *, alibi: bool, tmp_path: Path
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
    arch: int, tmp_path: Path
) -> None:
    kernels = import_module("worker.model.layers.decode_kernels")
    types = {
        "parts": "*fp32",
        "sums": "*fp32",
        "context_lens": "*i32",
        "output": "*bf16",
        "num_splits": "i32",
    }
    constants = {"NUM_HEADS": 71, "HEAD_DIM": 64}
    compiled = compile_for(arch, kernels.combine_splits, types, constants, num_warps=4)
    check_resources(compiled, tmp_path)


def compile_for(
    arch: int, kernel: Any, types: dict[str, str], constants: dict[str, Any], num_warps: int
) -> Any:
    """Compile a kernel ahead of time, as for tensors of torch, which are aligned."""
    triton = import_module("triton")
    source = import_module("triton.compiler").ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in kernel.arg_names},
        constexprs=constants,
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(kernel.arg_names)
            if types.get(name, "").startswith("*")
        },
    )
    target = import_module("triton.backends.compiler").GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options={"num_warps": num_warps})


def check_resources(compiled: Any, folder: Path) -> None:
    """Fail if the kernel spills registers, or is close to it."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    package = Path(import_module("triton").__file__ or "").parent
    usage = subprocess.run(
        [package / "backends/nvidia/bin/cuobjdump", "--dump-resource-usage", cubin],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found, usage
    registers, stack, local = map(int, found.groups())
    assert (stack, local) == (0, 0)
    assert registers <= MAX_REGISTERS
