"""Count habits of style that make the project's prose hard to read.

`python -m tests.prose` prints the count of each habit and the total; `--files` adds the count of
each file, `--root DIR` reads another checkout, and `--write` stores the counts for `test_prose`.
Read are Markdown pages, docstrings, comments of Python and Lua, and names of tests. Code and quoted
text are skipped.
"""

import argparse
import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
COUNTS = Path(__file__).with_name("prose_counts.json")
MAX_WORDS = 35
LONG_SENTENCE = f"sentence above {MAX_WORDS} words"
SKIPPED = {".venv", ".git", ".falconer", "node_modules", "bundled", "build"}

# Each word has a plain replacement: CONTRIBUTING.md states the rule.
HABITS = {
    "who": r"who|whom|whoever",
    "nobody": r"nobody|somebody|everybody",
    "told": r"tells?|telling|told|untold",
    "said": r"said",
    "beside": r"beside",
    "life": r"(?:life|lives)(?! of a request)",
    "anew": r"anew|of old",
    "come back": r"(?:comes?|came|coming) back",
    "gone": r"(?:has|have|had|is|are|was|were|been) gone|go(?:es)? away",
    "go on": r"go(?:es)? on|went on",
    "those of": r"those (?:of|that|which)|one that|ones",
    "knows no": r"knows? (?:no|nothing|neither)\b",
    "mend": r"mend(?:s|ed|ing)?|put(?:s|ting)? right",
    "in its hands": r"in (?:its|their) hands|comes? to naught",
}
PATTERNS = {name: re.compile(rf"\b(?:{habit})\b", re.IGNORECASE) for name, habit in HABITS.items()}
QUOTED = re.compile(r"```.*?```|^    .*?$|`[^`]*`|\"[^\"]*\"|\]\([^)]*\)|<!--.*?-->", re.S | re.M)
LIST_ITEM = re.compile(r"^\s*(?:[-*>#|]|\d+\.)", re.M)
SENTENCE_END = re.compile(r"[.!?:;](?=\s|$)|\s·\s|\s\|\s")


def count_habits(root: Path) -> dict[str, Counter[str]]:
    """Return the count of each habit by file, without files that have none."""
    counts = {}
    for path in sorted(files_of(root)):
        count = Counter(habit for text in texts_of(path) for habit in habits_of(text))
        if count:
            counts[str(path.relative_to(root))] = count
    return counts


def files_of(root: Path) -> Iterator[Path]:
    for suffix in ("md", "py", "lua"):
        for path in root.rglob(f"*.{suffix}"):
            folders = path.relative_to(root).parts[:-1]
            if not SKIPPED & set(folders) and not any(part.startswith(".") for part in folders):
                yield path


def texts_of(path: Path) -> Iterator[str]:
    """Yield the prose of a file: paragraphs, docstrings, blocks of comments, names of tests."""
    text = path.read_text(encoding="utf-8")
    match path.suffix:
        case ".md":
            yield text
        case ".lua":
            yield from comment_blocks(enumerate(text.splitlines()), "--")
        case _:
            tree = ast.parse(text)
            yield from (doc for node in ast.walk(tree) if (doc := docstring_of(node)))
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            comments = [token for token in tokens if token.type == tokenize.COMMENT]
            yield from (token.string for token in comments if token.line.lstrip()[0] != "#")
            lines = ((token.start[0], token.line) for token in comments)
            yield from comment_blocks((line for line in lines if line[1].lstrip()[0] == "#"), "#")
            yield from (node.name.replace("_", " ") for node in ast.walk(tree) if is_test(node))


def docstring_of(node: ast.AST) -> str | None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return ast.get_docstring(node) if isinstance(node, documented) else None


def is_test(node: ast.AST) -> bool:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return isinstance(node, functions) and node.name.startswith("test_")


def comment_blocks(lines: "Iterator[tuple[int, str]] | enumerate[str]", mark: str) -> Iterator[str]:
    """Join comments on successive lines; `lines` are numbered."""
    block: list[str] = []
    last = -1
    for number, line in lines:
        comment = line.strip().partition(mark)
        if not comment[1] or number != last + 1:
            yield " ".join(block)
            block = []
        if comment[1]:
            block.append(comment[2].strip())
            last = number
    yield " ".join(block)


def habits_of(text: str) -> Iterator[str]:
    """Yield the name of each habit, once for each place where the text has it."""
    prose = QUOTED.sub(" x ", text)
    for name, pattern in PATTERNS.items():
        yield from (name for _ in pattern.finditer(prose))
    for paragraph in re.split(r"\n\s*\n", LIST_ITEM.sub("\n\n", prose)):
        for sentence in SENTENCE_END.split(paragraph):
            if len(re.findall(r"\w[\w'-]*", sentence)) > MAX_WORDS:
                yield LONG_SENTENCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--files", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    counts = count_habits(arguments.root)
    if arguments.files:
        for name, count in counts.items():
            print(f"{count.total():5} {name}: {dict(count)}")
    totals: Counter[str] = sum(counts.values(), Counter())
    for habit, number in totals.most_common():
        print(f"{number:5} {habit}")
    print(f"{totals.total():5} in total, in {len(counts)} files")
    if arguments.write:
        stored = {name: count.total() for name, count in counts.items()}
        COUNTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
