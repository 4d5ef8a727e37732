"""The kernel for 8-bit weights compiles for GPUs; without it, torch multiplies."""

import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.worker.model.compiled_kernels import ARCHITECTURES, check_resources, compile_for
from worker.model.layers.weight_only_linear import triton_product

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs make triton-test")
CPU = torch.device("cpu")


@needs_triton
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("num_rows", [1, 32, 64])
def test_the_kernel_compiles_without_spilled_registers(
    arch: int, num_rows: int, compiler_cache: Path, tmp_path: Path
) -> None:
    kernels = import_module("worker.model.layers.int8_kernels")
    constants = kernels.product_constants(num_rows, 4544, 4 * 4544)
    num_warps, num_stages = constants.pop("num_warps"), constants.pop("num_stages")
    types = {
        **dict.fromkeys(("input", "scale", "output"), "*bf16"),
        "weight": "*i8",
        "num_rows": "i32",
        "stride": "i32",
    }
    compiled = compile_for(
        arch, kernels.multiply_tile, types, constants, num_warps, num_stages=num_stages
    )
    check_resources(compiled, tmp_path)
    # Two programs fit into the shared memory of the smallest of the GPUs.
    assert compiled.metadata.shared <= 80 * 1024


def test_without_triton_a_warning_names_the_reason_and_the_alternative(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "worker.model.layers.int8_kernels", None)
    triton_product.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert triton_product(CPU, torch.float16) is None
    triton_product.cache_clear()
    [message] = caplog.messages
    assert "int8_kernels" in message
    assert message.endswith("fp8 is faster")
