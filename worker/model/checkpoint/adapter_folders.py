"""Which adapters a folder holds, and how strong each is meant to be: KAITO's convention.

Knows nothing of what an adapter is made of.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.model.errors import CheckpointError

CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter as peft saved it, named by its folder; its updates count `strength` times."""

    path: Path
    strength: float = 1.0

    @property
    def name(self) -> str:
        return self.path.name

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"adapter {self.path}: {message}")


def find_adapters(directory: Path, environment: Mapping[str, str]) -> list[AdapterFolder]:
    """Every folder in `directory` with an adapter_config.json, by name.

    Its strength is the environment variable that is called like it, else 1. Raises CheckpointError
    when there is no such folder, or for a strength that is no finite number.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if (path / CONFIG_FILE).is_file())
    except OSError as error:
        raise CheckpointError(f"adapters_dir {directory} cannot be read: {error}") from error
    if not paths:
        raise CheckpointError(f"adapters_dir {directory} holds no folder with an {CONFIG_FILE}")
    return [_with_strength(AdapterFolder(path), environment) for path in paths]


def _with_strength(folder: AdapterFolder, environment: Mapping[str, str]) -> AdapterFolder:
    given = environment.get(folder.name, "1")
    try:
        strength = float(given)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise folder.error(
            f"the environment variable {folder.name} is its strength and must be a number, "
            f"got {given!r}"
        )
    return AdapterFolder(folder.path, strength)
