"""The kernels of fused layers are right and compile for GPUs, shown without one."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.worker.model.compiled_kernels import (
    ARCHITECTURES,
    check_resources,
    compile_for,
    interpret,
)

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs make triton-test")

# Hidden size, query heads of a KV head, KV heads, head size, two norms, bias: published models.
LAYERS = {
    "7b": (4544, 71, 1, 64, False, False),
    "40b": (8192, 16, 8, 64, True, False),
    "11b": (4096, 4, 8, 128, False, False),
    "rw": (2048, 1, 32, 64, False, True),
    "the widest": (16_384, 16, 8, 64, True, True),
}


def test_the_kernels_are_right_in_the_interpreter() -> None:
    interpret("tests/worker/model/fused/interpreted_kernels.py")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("like", LAYERS)
def test_fused_kernels_compile_without_spilled_registers(
    arch: int, like: str, compiler_cache: Path, tmp_path: Path
) -> None:
    for kernel, tensors, constants in kernels_of(*LAYERS[like]):
        num_warps = constants.pop("num_warps", 4)
        types = dict.fromkeys(tensors, "*bf16")
        types |= {"slots": "*i64"} if "slots" in tensors else {}
        types |= {name: "i32" for name in kernel.arg_names if name.endswith("stride")}
        absent = dict.fromkeys(set(kernel.arg_names) - types.keys() - constants.keys())
        compiled = compile_for(arch, kernel, types, constants | absent, num_warps)
        check_resources(compiled, tmp_path, max_registers=128)


def kernels_of(
    hidden: int, group: int, num_kv_heads: int, head_dim: int, two_norms: bool, bias: bool
) -> list[tuple[Any, list[str], dict[str, Any]]]:
    """Return the kernels of a network with the tensors and the constants of each."""
    fused = import_module("worker.model.fused.kernels")
    other = ["other_weight", "other_bias", "other_normed"] * two_norms
    rotary = ["cosines", "sines"] * (not bias)
    return [
        (
            fused.normalize_rows,
            ["residual", "update", "total", "weight", "bias", "normed"]
            + ["update_bias"] * bias
            + other,
            fused.norm_constants(hidden, 1e-5),
        ),
        (
            fused.place_heads_of_token,
            ["fused", "slots", "query", "keys", "values"] + ["bias"] * bias + rotary,
            fused.head_constants(group, num_kv_heads, head_dim),
        ),
        (
            fused.activate_columns,
            ["wide", "output"] + ["bias"] * bias,
            {"WIDTH": 4 * hidden},
        ),
    ]
