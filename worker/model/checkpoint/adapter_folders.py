"""Find the adapters in a folder and their strengths, by KAITO's convention."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.model.errors import CheckpointError

CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter as peft saved it; the folder is its name."""

    path: Path
    strength: float = 1.0  # factor of its updates

    @property
    def name(self) -> str:
        return self.path.name

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"adapter {self.path}: {message}")


def find_adapters(directory: Path, environment: Mapping[str, str]) -> list[AdapterFolder]:
    """Find the folders in `directory` that hold an adapter_config.json, sorted by name.

    The environment variable with the folder's name is its strength, 1 by default. Raises
    CheckpointError if there is no such folder or a strength is not a finite number.
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
