"""Import rules: api → shared ← worker, no torch outside the worker, and no import cycles."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import accumulate

import pytest

from tests.source_tree import ROOT, import_graph, imported_modules, python_files, tree_of

HEAVY = {"torch", "transformers", "accelerate", "safetensors"}
SERVICE = {"redis", "arq", "fastapi", "starlette", "uvicorn"}
TOP = {"bench", "falconer", "serve", "tests", "tools"}

# Folder → top-level packages that no file in it may import.
FORBIDDEN = {
    "shared": HEAVY | TOP | {"api", "worker", "fastapi", "starlette"},
    "api": HEAVY | TOP | {"worker", "arq"},
    "worker": TOP | {"api", "fastapi"},
    "worker/engine": SERVICE | TOP | {"shared", "api"},
    "worker/model": SERVICE | TOP | {"shared", "api"},
    "falconer/client": HEAVY | SERVICE | {"api", "bench", "serve", "tests", "tools", "worker"},
    "serve": {"bench", "falconer", "tests", "tools"},
    "bench": {"falconer", "tests", "tools"},
    "tools": {"bench", "falconer", "tests"},
}

LIBRARY = ("worker/engine/", "worker/model/")
HOST = {"worker/host_memory.py", "worker/cgroups.py"}  # read without loading torch, too

# The api and the engine check the same bounds. This module defines them and imports nothing.
SHARED_LIMITS = "shared.request.limits"


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    for name in python_files():
        if name.startswith(f"{folder}/"):
            modules = imported_modules(name) - {SHARED_LIMITS}
            forbidden = FORBIDDEN[folder] & {module.partition(".")[0] for module in modules}
            assert not forbidden, f"{name} imports {forbidden}"


def test_engine_and_model_import_only_what_describes_the_host_from_the_rest_of_the_worker() -> None:
    graph = import_graph()
    for name, imported in graph.items():
        if name.startswith(LIBRARY):
            rest = {other for other in imported if not other.startswith(LIBRARY)}
            assert {other for other in rest if other.startswith("worker/")} <= HOST, name
    assert all(set(graph[name]) <= HOST for name in HOST)


def test_the_limits_that_api_and_engine_share_import_nothing() -> None:
    assert not imported_modules(SHARED_LIMITS.replace(".", "/") + ".py")


def test_only_one_module_of_the_worker_knows_both_the_protocol_and_the_engine() -> None:
    both = [
        name
        for name in python_files()
        if name.startswith("worker/") and {"SamplingParams", "GenerateKwargs"} <= names_in(name)
    ]
    assert len(both) == 1, both


def names_in(name: str) -> set[str]:
    imports = (node for node in ast.walk(tree_of(name)) if isinstance(node, ast.ImportFrom))
    return {alias.name for node in imports for alias in node.names}


def test_no_imports_form_a_cycle() -> None:
    assert import_cycles(import_graph()) == []


def test_no_imports_between_packages_form_a_cycle() -> None:
    assert import_cycles(package_graph()) == []


def package_graph() -> dict[str, set[str]]:
    """Return the files and folders that each file or folder imports from its own folder."""
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for name, imported in import_graph().items():
        for other in imported:
            importer, target = siblings(name, other)
            graph[importer].add(target)
    return graph


def siblings(name: str, other: str) -> tuple[str, str]:
    """Return the two paths up to their first different part."""
    paths = [[*accumulate(path.split("/"), "{}/{}".format)] for path in (name, other)]
    return next((a, b) for a, b in zip(*paths, strict=False) if a != b)


def import_cycles(imports: Mapping[str, Collection[str]]) -> list[set[str]]:
    """Return the groups of nodes that import each other, found by removing all other nodes."""
    graph = {name: set(imported) for name, imported in imports.items()}
    while removable := {name for name in graph if not graph[name] & graph.keys()}:
        graph = {name: graph[name] for name in graph.keys() - removable}
    reachable = {name: files_reached_from(name, graph) for name in graph}
    cycles = {
        frozenset(other for other in reachable[name] if name in reachable[other])
        for name in graph
        if name in reachable[name]
    }
    return [set(cycle) for cycle in cycles]


def files_reached_from(name: str, graph: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    pending = [name]
    while pending:
        new = graph.get(pending.pop(), set()) & graph.keys() - reached
        reached |= new
        pending += new
    return reached


@pytest.mark.parametrize(
    "module", ["api.server", "shared.request.prompt", "shared.queue.job_queue", "falconer.cli"]
)
def test_importing_the_api_loads_neither_torch_nor_transformers(module: str) -> None:
    assert modules_loaded_by(f"import {module}", HEAVY) == "[]"


def test_importing_the_client_loads_nothing_of_the_service() -> None:
    assert modules_loaded_by("from falconer import Client, JobFailed", HEAVY | SERVICE) == "[]"


def test_a_worker_starts_and_generates_without_slow_imports() -> None:
    """transformers, accelerate and torch's compiler would add seconds to every start."""
    code = (
        "from worker import main\n"
        "from worker.engine import Engine, SamplingParams, generate\n"
        "from worker.model.checkpoint.tiny import bundled_checkpoint\n"
        "for executor in ('torch', 'openvino'):\n"
        "    engine = Engine.from_pretrained(str(bundled_checkpoint()), executor=executor)\n"
        "    list(generate(engine, ['Once'], SamplingParams(max_new_tokens=2, seed=1)))"
    )
    assert modules_loaded_by(code, {"transformers", "accelerate", "torch._dynamo", "sympy"}) == "[]"


def modules_loaded_by(code: str, modules: set[str]) -> str:
    """Run `code` in a new interpreter; return which of `modules` it has imported."""
    code += f"\nimport sys; print(sorted({modules!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
