"""Links between pages resolve, and the index of decisions is complete."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.tables import ROOT

DECISIONS = ROOT / "docs" / "decisions"
SKIPPED = {".venv", ".git", ".falconer", "node_modules"}
LINK = re.compile(
    r"\]\((?!https?://|mailto:)([^)\s]*)\)|(?:src|srcset|href)=\"(?!https?://)([^\"]+)\""
)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", flags=re.DOTALL | re.MULTILINE)
INDEX_ROW = re.compile(
    r"^- \[(\d{4})\]\(([\w-]+\.md)\) (.+?)( \((?:amended|superseded)\))?$", re.MULTILINE
)
SOURCES = {"api", "bench", "deploy", "falconer", "serve", "shared", "tests", "tools", "worker"}


def documents() -> list[Path]:
    return [page for page in sorted(ROOT.rglob("*.md")) if not SKIPPED & set(page.parts)]


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and the fragment of each link to a file of the repository."""
    for markdown, html in LINK.findall(CODE.sub("", page.read_text())):
        path, _, fragment = (markdown or html).partition("#")
        yield path, fragment


def anchors(page: Path) -> set[str]:
    """Return the fragments that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub(without_backticks, page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_backticks(code: re.Match[str]) -> str:
    return "" if code[0].startswith("```") else code[0].strip("`")


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for path, fragment in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path} does not exist"
        if fragment and target.suffix == ".md":
            assert fragment in anchors(target), f"{path}#{fragment}"


def test_each_page_is_reachable_from_another() -> None:
    linked = {
        (page.parent / path).resolve() for page in documents() for path, _ in links(page) if path
    }
    pages = set((ROOT / "docs").rglob("*.md"))
    assert sorted(page.name for page in pages - linked) == []


def named_paths(page: Path) -> set[str]:
    """Return the files and folders of the repository that a page names as code."""
    named = re.findall(r"`([\w.-]+/[\w./-]*)`", page.read_text())
    return {path for path in named if path.partition("/")[0] in SOURCES}


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_exist(page: Path) -> None:
    assert sorted(path for path in named_paths(page) if not (ROOT / path).exists()) == []


def test_the_architecture_page_lists_each_package() -> None:
    page = (ROOT / "docs" / "concepts" / "architecture.md").read_text()
    listed = set(re.findall(r"^- `([\w/]+)/`: ", page, flags=re.MULTILINE))
    files = (path for name in sorted(SOURCES) for path in (ROOT / name).rglob("*.py"))
    packages = {str(path.parent.relative_to(ROOT)) for path in files}
    by_subject = ("bench/", "tools/", "tests/")  # one row names all of them
    assert {name for name in packages if not name.startswith(by_subject)} <= listed


def decisions() -> dict[str, str]:
    """Return the title of each decision's page by its file name."""
    return {
        page.name: page.read_text().partition("\n")[0].removeprefix("# ")
        for page in sorted(DECISIONS.glob("[0-9]*.md"))
    }


def test_the_index_lists_each_decision_with_its_title() -> None:
    rows = INDEX_ROW.findall((DECISIONS / "README.md").read_text())
    assert [name for _, name, _, _ in rows] == list(decisions())
    for number, name, title, _ in rows:
        assert name.startswith(number)
        assert decisions()[name] == f"{number} · {title}"


def test_the_index_marks_each_amended_note() -> None:
    rows = INDEX_ROW.findall((DECISIONS / "README.md").read_text())
    for _, name, _, status in rows:
        dated = (DECISIONS / name).read_text().split("\n")[2]
        assert ("amended" in dated) == (status == " (amended)"), name
