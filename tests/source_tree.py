"""The project's Python files and the imports between them, for tests about the source itself."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ("api", "bench", "deploy", "falconer", "serve", "shared", "tools", "worker")


@cache
def python_files() -> tuple[str, ...]:
    """Return the paths of all Python files of the source and the tests, relative to the root."""
    files = (path for folder in (*SOURCE, "tests") for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(str(path.relative_to(ROOT)) for path in files))


@cache
def tree_of(name: str) -> ast.Module:
    """Return the parsed file."""
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def module_of(name: str) -> str:
    """Return the dotted name under which a file is imported."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def file_by_module() -> dict[str, str]:
    return {module_of(name): name for name in python_files()}


@cache
def imported_modules(name: str) -> frozenset[str]:
    """Return every module that a file names in an import, wherever the import stands.

    `from package import name` counts as an import of `package.name` where that is a module.
    """
    found: set[str] = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports must be absolute"
            found |= set(_imported_from(node))
    return frozenset(found)


def _imported_from(node: ast.ImportFrom) -> Iterator[str]:
    package = node.module or ""
    for alias in node.names:
        module = f"{package}.{alias.name}"
        yield module if module in file_by_module() else package


@cache
def import_graph() -> dict[str, frozenset[str]]:
    """Return the files that each file imports."""
    files = file_by_module()
    return {
        name: frozenset(files[module] for module in imported_modules(name) if module in files)
        for name in python_files()
    }
