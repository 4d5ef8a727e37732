"""Sizes of memory as people write them: "80GiB", "24 GB", "1.5 TiB"."""

import re

_UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
_FACTORS = {"": 1, "B": 1, **_UNITS, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_LIMIT = 2**63
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes; a bare number is one of bytes. Raises ValueError when it is not a size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] not in _FACTORS:
        raise ValueError(f"{text!r} is not a size: write one as 80GiB or 24GB")
    num_bytes = float(match[1]) * _FACTORS[match[2]]
    if num_bytes >= _LIMIT:
        raise ValueError(f"a size must be less than 8 EiB, got {text!r}")
    return int(num_bytes)


def format_size(num_bytes: int) -> str:
    for unit, factor in _UNITS.items():
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"
