"""The report of a benchmark, the same for the engine and for the service."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shared.errors import FalconerError

MAX_ERRORS_SHOWN = 5


@dataclass(slots=True)
class RequestReport:
    """Result of one request; times are in seconds."""

    sequences: list[dict[str, Any]] = field(default_factory=list)  # token_ids, text, finish_reason
    ttft_s: float | None = None
    latency_s: float | None = None
    inter_token_s: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None  # as a server counts them
    error: str | None = None

    @property
    def output_tokens(self) -> int:
        return sum(sequence["token_count"] for sequence in self.sequences)

    def to_json(self) -> dict[str, Any]:
        body = asdict(self)
        del body["inter_token_s"]
        if self.error is None:
            del body["error"]
        return body


@dataclass(slots=True)
class Report:
    """Results of a run."""

    requests: list[RequestReport]
    wall_s: float
    extra: dict[str, Any] = field(default_factory=dict)  # figures of one benchmark only

    def summary(self) -> dict[str, Any]:
        output_tokens = sum(request.output_tokens for request in self.requests)
        gaps = [gap for request in self.requests for gap in request.inter_token_s]
        return {
            "requests": len(self.requests),
            "failed": sum(request.error is not None for request in self.requests),
            "output_tokens": output_tokens,
            "wall_s": self.wall_s,
            "tokens_per_s": output_tokens / self.wall_s,
            "ttft_s": percentiles([r.ttft_s for r in self.requests if r.ttft_s is not None]),
            "inter_token_s": percentiles(gaps),
            "latency_s": percentiles(
                [r.latency_s for r in self.requests if r.latency_s is not None]
            ),
            **self.extra,
        }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return p50, p95 and p99 by the nearest-rank method, or None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return {f"p{p}": ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in (50, 95, 99)}


def check_output(json_out: Path | None) -> None:
    """Raise FalconerError for a file that cannot be written, before the measurement starts."""
    if json_out is not None and not json_out.resolve().parent.is_dir():
        raise FalconerError(f"--json {json_out}: there is no folder {json_out.parent}")


def finish_bench(report: Report, json_out: Path | None) -> int:
    """Print the summary and the errors, and write the report if a file is given.

    Returns the exit code: 1 if every request failed.
    """
    table = Table("figure", "value", box=None)
    for name, value in report.summary().items():
        table.add_row(name, _format(value))
    console = Console()
    console.print(table)
    errors = Counter(request.error for request in report.requests if request.error is not None)
    for error, count in errors.most_common(MAX_ERRORS_SHOWN):
        console.print(f"{count} times: {error}", markup=False)
    if json_out is not None:
        body = {
            "summary": report.summary(),
            "requests": [request.to_json() for request in report.requests],
        }
        json_out.write_text(json.dumps(body, indent=1) + "\n")
    return 1 if errors.total() == len(report.requests) else 0


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_format(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
