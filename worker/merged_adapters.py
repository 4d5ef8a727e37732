"""What tells the adapters in a model's weights from others: name, strength and contents."""

from collections.abc import Sequence
from hashlib import file_digest, sha256
from pathlib import Path

from shared.protocol import MergedAdapter
from worker.model.adapter_folders import CONFIG_FILE, AdapterFolder
from worker.model.lora_checkpoint import WEIGHTS_FILE


def describe_merged(folders: Sequence[AdapterFolder]) -> tuple[MergedAdapter, ...]:
    """Raises OSError where a file cannot be read."""
    return tuple(
        MergedAdapter(name=folder.name, strength=folder.strength, digest=_digest(folder.path))
        for folder in folders
    )


def _digest(folder: Path) -> str:
    """Hex SHA-256 of the weights and of the config, which tells their scale."""
    both = sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            both.update(file_digest(file, "sha256").digest())
    return both.hexdigest()
