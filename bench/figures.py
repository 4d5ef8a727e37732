"""The file of all measured figures: each measurement replaces its own section.

`bench.publish` makes the tables and plots of docs/benchmarks.md from this file.
"""

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "transformers", "openvino")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def read_figures(path: Path) -> dict[str, Any]:
    """Return all sections; an absent file has none."""
    if not path.is_file():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def record(path: Path, keys: Sequence[str], figures: Any) -> None:
    """Write `figures` to the place that `keys` name, and the machine that measured them.

    The first key names the section. Other places of the file stay.
    """
    document = read_figures(path)
    place = document
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = figures
    document.setdefault("machine", {})[keys[0]] = describe_machine()
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, versions and today's date."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    """Return the processor's name and the instructions that decide how fast a model runs."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = [line.partition(":") for line in info.read_text().splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    flags = fields.get("flags", "").split()
    found = ", ".join(flag for flag in INSTRUCTIONS if flag in flags)
    return f"{fields.get('model name', platform.machine())} ({found})"
