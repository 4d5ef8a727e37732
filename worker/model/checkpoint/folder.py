"""Find the folder of a checkpoint, or download it from the hub."""

import re
from pathlib import Path

from worker.model.errors import CheckpointError
from worker.model.tokenizer.tokenizer_files import TOKENIZER_FILES

DOWNLOADED_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    *TOKENIZER_FILES,
)
# Only if a repository has no safetensors: most have both, of the same size.
TORCH_WEIGHTS = ("pytorch_model*.bin", "pytorch_model*.bin.index.json")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def resolve_checkpoint(source: str) -> Path:
    """Return the folder of `source`, a local path or a hub id; download the latter if needed.

    Raises CheckpointError if there is neither such a folder nor such a model on the hub.
    """
    if not source:
        raise CheckpointError("no model given: name a folder or a hub id")
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{source} is a file: give the folder of the checkpoint")
    if not _HUB_ID.fullmatch(source) or source.startswith("."):
        raise CheckpointError(f"no such folder: {source}")
    return _download(source)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=list(DOWNLOADED_FILES)))
        if not any(folder.glob("*.safetensors")):
            patterns = [*DOWNLOADED_FILES, *TORCH_WEIGHTS]
            folder = Path(snapshot_download(hub_id, allow_patterns=patterns))
        return folder
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"neither a folder nor a public model on the hub: {hub_id} "
            "(a private or gated one needs HF_TOKEN)"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(
            f"{hub_id} is not a folder here and could not be fetched from the hub: {reason}"
        ) from error
