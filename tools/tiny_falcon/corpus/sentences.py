"""Read the templates of the corpus in `text/`, one per line.

A file has sections (`=== name`), a section has paragraphs, a paragraph has lines. A line may have
line breaks, written as `\\n`.
"""

from collections.abc import Mapping
from pathlib import Path

Paragraph = tuple[str, ...]
Section = tuple[Paragraph, ...]

_FOLDER = Path(__file__).parent / "text"


def _section(body: str) -> Section:
    return tuple(
        tuple(line.replace("\\n", "\n") for line in paragraph.splitlines() if line)
        for paragraph in body.split("\n\n")
        if paragraph.strip()
    )


def load_sections(file_name: str) -> Mapping[str, Section]:
    """Return the sections by name, in the order of the file."""
    sections: dict[str, Section] = {}
    for part in (_FOLDER / file_name).read_text(encoding="utf-8").split("=== ")[1:]:
        name, _, body = part.partition("\n")
        sections[name] = _section(body)
    return sections


def load_lines(file_name: str) -> Mapping[str, Paragraph]:
    """Return the lines of each section."""
    sections = load_sections(file_name).items()
    return {name: tuple(line for paragraph in s for line in paragraph) for name, s in sections}


def load_words(file_name: str) -> Mapping[str, list[str]]:
    """Return the words of each section, which are separated by commas."""
    lines = load_lines(file_name).items()
    return {name: [word.strip() for word in " ".join(body).split(",")] for name, body in lines}
