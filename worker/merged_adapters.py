"""What tells the adapters in a model's weights from others: name, strength and contents."""

from collections.abc import Sequence
from hashlib import file_digest, sha256

from shared.protocol import MergedAdapter
from worker.model.checkpoint.adapter_folders import CONFIG_FILE, AdapterFolder
from worker.model.checkpoint.lora import find_weights


def describe_merged(folders: Sequence[AdapterFolder]) -> tuple[MergedAdapter, ...]:
    """Raises OSError where a file cannot be read, CheckpointError where there is none."""
    return tuple(
        MergedAdapter(name=folder.name, strength=folder.strength, digest=_digest(folder))
        for folder in folders
    )


def _digest(folder: AdapterFolder) -> str:
    """Hex SHA-256 of the weights and of the config, which tells their scale."""
    both = sha256()
    for path in (folder.path / CONFIG_FILE, find_weights(folder)):
        with path.open("rb") as file:
            both.update(file_digest(file, "sha256").digest())
    return both.hexdigest()
