"""Workloads: JSON lines, each one request with its `generate_kwargs`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import FalconerError


@dataclass(frozen=True, slots=True)
class WorkItem:
    """Exactly one of `prompt` and `prompt_ids` is set."""

    prompt: str | None = None
    prompt_ids: list[int] | None = None
    generate_kwargs: dict[str, Any] = field(default_factory=dict)


def read_workload(path: Path) -> list[WorkItem]:
    """Parse a file of JSON lines; raises `FalconerError` naming the first bad line."""
    if not path.is_file():
        raise FalconerError(f"--requests {path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise FalconerError(f"--requests {path}: not UTF-8 text") from error
    lines = enumerate(text.split("\n"), start=1)  # splitlines() would split inside JSON strings
    items = [_parse(path, number, line) for number, line in lines if line.strip()]
    if not items:
        raise FalconerError(f"--requests {path}: holds no request")
    return items


def write_workload(path: Path, items: Sequence[WorkItem]) -> None:
    """Write what `read_workload` reads."""
    bodies = ({k: v for k, v in asdict(item).items() if v is not None} for item in items)
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies), encoding="utf-8")


def _parse(path: Path, number: int, line: str) -> WorkItem:
    where = f"--requests {path}, line {number}"
    try:
        item = WorkItem(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise FalconerError(
            f"{where}: not an object of prompt | prompt_ids, generate_kwargs"
        ) from error
    if (item.prompt is None) == (item.prompt_ids is None):
        raise FalconerError(f"{where}: give either prompt or prompt_ids")
    return item
