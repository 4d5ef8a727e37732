"""The rules of CONTRIBUTING.md for folders, files, functions and packages."""

import ast
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from types import UnionType

import pytest

from tests.source_tree import ROOT, import_graph, python_files, tree_of

MAX_FILES = 12
MAX_TEST_FILES = 20
MIN_LINES = 60
MAX_LINES = 300
MAX_FUNCTION_LINES = 40
ENTRY_POINTS = ("__init__.py", "__main__.py", "conftest.py")
LOADED_BY_NAME = ("tests/bench/gpu/bare_machine.py", "tests/clients/lm_eval/stories.py")
SUPPRESSIONS = tuple("# " + word for word in ("noqa", "type: ignore", "TODO", "FIXME"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def num_lines(name: str) -> int:
    return len(text_of(name).splitlines())


def test_a_folder_has_at_most_12_python_files_or_20_of_tests() -> None:
    counts = Counter(str(PurePosixPath(name).parent) for name in python_files())
    assert [folder for folder in counts if counts[folder] > max_files(folder)] == []


def max_files(folder: str) -> int:
    return MAX_TEST_FILES if folder.partition("/")[0] == "tests" else MAX_FILES


def test_a_file_below_60_lines_has_two_importers_or_is_an_entry_point() -> None:
    importers = defaultdict(set)
    for name, imported in import_graph().items():
        for other in imported:
            importers[other].add(name)
    assert [name for name in python_files() if is_too_small(name, importers[name])] == []


def is_too_small(name: str, importers: set[str]) -> bool:
    """Return whether a file is too small to stand alone. The file's own test is no importer."""
    own_test = f"test_{PurePosixPath(name).name}"
    others = {other for other in importers if PurePosixPath(other).name != own_test}
    return num_lines(name) < MIN_LINES and len(others) < 2 and not is_entry_point(name)


def is_entry_point(name: str) -> bool:
    """Return whether a framework or a user runs the file: a route, a test, a command."""
    path = PurePosixPath(name)
    is_command = '__name__ == "__main__"' in text_of(name)
    is_test = path.parts[0] == "tests" and path.name.startswith("test_")
    is_route = path.is_relative_to("api/routes")
    is_loaded_by_name = path.name in ENTRY_POINTS or name in LOADED_BY_NAME
    return is_loaded_by_name or is_command or is_test or is_route


def test_a_file_has_at_most_300_lines() -> None:
    assert [name for name in python_files() if num_lines(name) > MAX_LINES] == []


def test_a_function_has_at_most_40_lines() -> None:
    assert [place for name in python_files() for place in long_functions(name)] == []


def long_functions(name: str) -> Iterator[str]:
    for node in ast.walk(tree_of(name)):
        if isinstance(node, Function):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES:
                yield f"{name}: {node.name}"


def test_no_comment_suppresses_a_check_or_postpones_work() -> None:
    suppressing = [
        name for name in python_files() if any(comment in text_of(name) for comment in SUPPRESSIONS)
    ]
    assert suppressing == []


def test_a_package_names_the_modules_that_others_may_import() -> None:
    """The docstring of `__init__` names them. Tests, benchmarks and tools may look inside."""
    assert sorted(set(undocumented_exports())) == []


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
    assert [name for name in packages if not ast.get_docstring(tree_of(name))] == []


def test_a_built_distribution_contains_every_package() -> None:
    """setuptools finds packages by the pattern of their names and by `__init__.py`."""
    settings = tomllib.loads(text_of("pyproject.toml"))["tool"]["setuptools"]["packages"]["find"]
    files = [
        name for name in python_files() if not name.startswith(("deploy/", "tests/", "tools/"))
    ]
    folders = {str(PurePosixPath(name).parent) for name in files}
    assert {f"{folder}/__init__.py" for folder in folders} <= set(files)
    names = [folder.replace("/", ".") for folder in folders]
    assert [name for name in names if not fnmatches(name, settings["include"])] == []


def fnmatches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def test_a_functions_docstring_begins_with_a_verb() -> None:
    """ruff checks that the verb is imperative (D401)."""
    words = {word for name in sources() for word in first_words(name, Function)}
    assert [word for word in words if not re.fullmatch("[A-Z][a-z]+", word)] == []


def test_no_docstring_begins_with_a_verb_in_the_third_person() -> None:
    """The verbs looked for begin docstrings of functions."""
    verbs = {word for name in sources() for word in first_words(name, Function)}
    forms = {third_person(verb) for verb in verbs}
    for name in sources():
        assert not forms & set(first_words(name, ast.Module | ast.ClassDef)), name


def sources() -> list[str]:
    return [name for name in python_files() if not name.startswith("tests/")]


def first_words(name: str, kinds: type | UnionType) -> Iterator[str]:
    """Yield the first word of each docstring of a node of these kinds."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node)):
            yield docstring.split()[0].rstrip(",")


def third_person(verb: str) -> str:
    if re.search("[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search("(s|x|z|ch|sh)$", verb) else "s")


@pytest.mark.parametrize("name", ["utils", "helpers", "misc", "common"])
def test_no_file_has_a_name_without_a_subject(name: str) -> None:
    assert [path for path in python_files() if PurePosixPath(path).stem == name] == []
