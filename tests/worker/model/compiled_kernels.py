"""Run Triton's kernels in its interpreter, and compile them for GPUs without one.

`make triton-test` installs Triton, which the CPU build of torch lacks.
"""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.source_tree import ROOT

ARCHITECTURES = [80, 90, 100]  # A100, H100 and H200, B200
MAX_REGISTERS = 224  # of 255; close to that, compilers spill


def interpret(tests: str) -> None:
    """Run a file of tests in a process whose Triton interprets kernels."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    result = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stdout


def compile_for(
    arch: int,
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    num_warps: int,
    num_stages: int = 3,
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
    return triton.compile(
        source, target=target, options={"num_warps": num_warps, "num_stages": num_stages}
    )


def check_resources(compiled: Any, folder: Path, *, max_registers: int = MAX_REGISTERS) -> None:
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
    assert registers <= max_registers
