"""Compile and load the device guard that torch's CPU build lacks for device `cuda`.

A loaded guard stays until its process ends, so only processes of their own load it.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("guard.cpp")
COMPILER = "g++"


def why_unavailable() -> str | None:
    """Return why this machine cannot pretend a GPU; None if it can."""
    if shutil.which(COMPILER) is None:
        return f"the pretended GPU needs {COMPILER}"
    if torch.version.cuda is not None:
        return "the pretended GPU needs the CPU build of torch"
    return None


def compile_guard(folder: Path) -> Path:
    """Compile the guard for the installed torch, in about a second; return the library."""
    torch_folder, library = Path(torch.__file__).parent, folder / "libpretendedcuda.so"
    command = [COMPILER, "-std=c++20", "-O1", "-fPIC", "-shared", f"-I{torch_folder}/include"]
    command += [str(SOURCE), f"-L{torch_folder}/lib", "-lc10", "-o", str(library)]
    subprocess.run(command, check=True, timeout=120)
    return library


def load_guard(library: Path) -> None:
    """Register the guard in this process, and let torch skip its own start of CUDA."""
    ctypes.CDLL(str(library))
    torch.cuda._lazy_init = lambda: None
