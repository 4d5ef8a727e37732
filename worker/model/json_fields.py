"""Read typed fields of a checkpoint's JSON files; every error names the file and the field."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.model.errors import CheckpointError, unreadable


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object in any Unicode encoding, with or without a byte order mark.

    Raises CheckpointError if the file is absent or holds no object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"no {path.name} in {path.parent}") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def read_optional(path: Path) -> dict[str, Any]:
    """Read a JSON object, empty if there is no such file. Raises CheckpointError."""
    return read_json(path) if path.is_file() else {}


@dataclass(frozen=True, slots=True)
class JsonFields:
    """Fields of one JSON object; absent and null both mean the default."""

    file: str  # name for messages
    raw: Mapping[str, Any]

    def integer(self, name: str, default: int) -> int:
        """Return a positive integer."""
        value = self._value(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(f"{name} must be a positive integer, got {value!r}")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a positive number; refuse NaN and Infinity, which Python's JSON reads."""
        value = self._value(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            raise self.error(f"{name} must be a positive number, got {value!r}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.error(f"{name} must be true or false, got {value!r}")
        return value

    def text(self, name: str, default: str) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.error(f"{name} must be a string, got {value!r}")
        return value

    def mapping(self, name: str) -> "JsonFields":
        """Return an object; empty when absent."""
        value = self._value(name, {})
        if not isinstance(value, Mapping):
            raise self.error(f"{name} must be an object, got {value!r}")
        return JsonFields(self.file, value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """Return a token id or a list of them as a tuple; empty when absent."""
        value = self._value(name, [])
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
            raise self.error(f"{name} must be a token id or a list of them, got {value!r}")
        return tuple(ids)

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {message}")

    def _value(self, name: str, default: Any) -> Any:
        value = self.raw.get(name)
        return default if value is None else value
