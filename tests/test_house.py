"""Rules for the size of folders, files and functions, and for what a package offers to others.

CONTRIBUTING.md states the rules. `EXCEPTIONS` lists the files and folders that still break one. No
file or folder may be added to it.
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import pytest

from tests.source_tree import ROOT, import_graph, python_files, tree_of

MAX_FILES = 12
MAX_TEST_FILES = 20
MIN_LINES = 60
MAX_LINES = 300
MAX_FUNCTION_LINES = 40
ENTRY_POINTS = ("__init__.py", "__main__.py", "conftest.py")
SUPPRESSIONS = tuple("# " + word for word in ("noqa", "type: ignore", "TODO", "FIXME"))

EXCEPTIONS: dict[str, set[str]] = {
    "large folder": set(),
    "small file": {
        "bench/gpu/floor.py",
        "shared/request/token_length_bound.py",
        "tests/bench/gpu/bare_machine.py",
        "tests/chaos/harness/event_stream.py",
        "tools/tiny_falcon/corpus/stream.py",
    },
    "large file": {
        "tests/api/routes/test_chat.py",
        "tests/shared/request/test_prompt.py",
    },
    "long function": {
        "api/metrics.py",
        "shared/queue/job_queue.py",
    },
    "suppression": {
        "tests/shared/queue/test_reply_stream.py",
        "tests/shared/queue/test_token_log.py",
    },
    "undocumented export": set(),
    "package without docstring": set(),
}


def check(rule: str, found: Iterable[str]) -> None:
    assert set(found) - EXCEPTIONS[rule] == set(), f"these break the rule: {rule}"


def num_lines(name: str) -> int:
    return len((ROOT / name).read_text(encoding="utf-8").splitlines())


def test_a_folder_has_at_most_12_python_files_or_20_of_tests() -> None:
    counts = Counter(str(PurePosixPath(name).parent) for name in python_files())
    check("large folder", (folder for folder in counts if counts[folder] > max_files(folder)))


def max_files(folder: str) -> int:
    return MAX_TEST_FILES if folder.partition("/")[0] == "tests" else MAX_FILES


def test_a_file_below_60_lines_has_two_importers_or_is_an_entry_point() -> None:
    importers = defaultdict(set)
    for name, imported in import_graph().items():
        for other in imported:
            importers[other].add(name)
    check("small file", (name for name in python_files() if is_small(name, importers[name])))


def is_small(name: str, importers: set[str]) -> bool:
    """Return whether a file is too small to stand alone. The file's own test is no importer."""
    path = PurePosixPath(name)
    others = {other for other in importers if PurePosixPath(other).name != f"test_{path.name}"}
    return num_lines(name) < MIN_LINES and len(others) < 2 and not is_entry_point(name)


def is_entry_point(name: str) -> bool:
    """Return whether a framework or a user runs the file: a route, a test, a command."""
    path = PurePosixPath(name)
    is_command = '__name__ == "__main__"' in (ROOT / name).read_text(encoding="utf-8")
    is_test = path.parts[0] == "tests" and path.name.startswith("test_")
    is_route = path.parent == PurePosixPath("api/routes")
    return path.name in ENTRY_POINTS or is_command or is_test or is_route


def test_a_file_has_at_most_300_lines() -> None:
    check("large file", (name for name in python_files() if num_lines(name) > MAX_LINES))


def test_a_function_has_at_most_40_lines() -> None:
    check("long function", (name for name in python_files() if has_long_function(name)))


def has_long_function(name: str) -> bool:
    functions = (
        node
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return any((node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES for node in functions)


def test_no_comment_suppresses_a_check_or_postpones_work() -> None:
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in python_files()}
    check(
        "suppression",
        (name for name, text in texts.items() if any(comment in text for comment in SUPPRESSIONS)),
    )


def test_a_package_names_the_modules_that_others_may_import() -> None:
    """The docstring of `__init__` names them. Tests, benchmarks and tools may look inside."""
    check("undocumented export", sorted(set(undocumented_exports())))


def undocumented_exports() -> Iterator[str]:
    for name, imported in import_graph().items():
        if name.partition("/")[0] not in ("bench", "tests", "tools"):
            for other in imported:
                package = PurePosixPath(other).parent
                is_outside = package not in PurePosixPath(name).parents
                is_module = PurePosixPath(other).name != "__init__.py"
                if is_outside and is_module and not is_documented(other, str(package)):
                    yield other


def is_documented(name: str, package: str) -> bool:
    docstring = ast.get_docstring(tree_of(f"{package}/__init__.py")) or ""
    return f"`{PurePosixPath(name).stem}`" in docstring


def test_every_package_has_a_docstring() -> None:
    packages = [name for name in python_files() if name.endswith("__init__.py")]
    undescribed = {name for name in packages if not ast.get_docstring(tree_of(name))}
    check("package without docstring", undescribed)


@pytest.mark.parametrize("name", ["utils", "helpers", "misc", "common"])
def test_no_file_has_a_name_without_a_subject(name: str) -> None:
    assert [path for path in python_files() if PurePosixPath(path).stem == name] == []
