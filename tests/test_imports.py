"""The import rules of the architecture: api → shared ← worker, and no torch outside the worker."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

HEAVY = {"torch", "transformers", "accelerate", "safetensors"}
SERVICE = {"redis", "arq", "fastapi", "starlette", "uvicorn"}

# Folder → top-level packages that nothing in it may import.
FORBIDDEN = {
    "shared": HEAVY | {"api", "worker", "serve", "bench", "fastapi", "starlette"},
    "api": HEAVY | {"worker", "serve", "bench", "arq"},
    "worker": {"api", "serve", "bench", "fastapi"},
    "worker/engine": SERVICE | {"shared", "api", "serve", "bench"},
    "worker/model": SERVICE | {"shared", "api", "serve", "bench"},
}


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield (node.module or "").partition(".")[0]


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def modules_with_rules() -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(ROOT)), folder)
        for folder in FORBIDDEN
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


@pytest.mark.parametrize(("module", "folder"), modules_with_rules())
def test_a_module_imports_only_what_its_folder_may(module: str, folder: str) -> None:
    forbidden = FORBIDDEN[folder] & set(imported_packages(ROOT / module))
    assert not forbidden, f"{module} imports {forbidden}"


def test_one_module_alone_translates_between_wire_and_engine() -> None:
    both = []
    for path in (ROOT / "worker").glob("*.py"):
        names = set(imported_names(path))
        if {"SamplingParams", "GenerateKwargs"} <= names:
            both.append(path.name)
    assert len(both) <= 1, both


@pytest.mark.parametrize(
    "module", ["api.server", "shared.request.prompt", "shared.queue.job_queue"]
)
def test_importing_the_api_loads_neither_torch_nor_transformers(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        f"loaded = {sorted(HEAVY)!r}\n"
        "print([name for name in loaded if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_a_worker_starts_and_generates_without_slow_imports() -> None:
    """transformers, accelerate and torch's compiler: each would add seconds to every start."""
    code = (
        "import sys\n"
        "from worker import main\n"
        "from worker.engine import Engine, SamplingParams, generate\n"
        "from worker.model.checkpoint.tiny import bundled_checkpoint\n"
        "for executor in ('torch', 'openvino'):\n"
        "    engine = Engine.from_pretrained(str(bundled_checkpoint()), executor=executor)\n"
        "    list(generate(engine, ['Once'], SamplingParams(max_new_tokens=2, seed=1)))\n"
        "slow = {'transformers', 'accelerate', 'torch._dynamo', 'sympy'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
