"""The folder a model comes in: finding it, and what lies in it beside the weights.

Owns hub ids, the tokenizer file and special token ids. Never unpickles anything.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from worker.model.errors import CheckpointError
from worker.model.json_fields import JsonFields, read_json

DOWNLOADED_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Ids that the checkpoint gives a meaning; several may end a text."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None


def resolve_checkpoint(source: str) -> Path:
    """Find the folder of `source`, a local path or a hub id, which is downloaded if need be.

    Raises CheckpointError when there is no such folder, and no such model on the hub either.
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
        return Path(snapshot_download(hub_id, allow_patterns=list(DOWNLOADED_FILES)))
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


def load_tokenizer(path: Path) -> Tokenizer:
    """Read `path`/tokenizer.json. Raises CheckpointError when it is absent or broken."""
    file = path / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(
            f"no tokenizer.json in {path}; AutoTokenizer.from_pretrained(...).save_pretrained(...) "
            "writes one from an older tokenizer"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises bare Exception
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def load_special_tokens(path: Path) -> SpecialTokens:
    """Special token ids from generation_config.json, else config.json, else the tokenizer's files.

    Raises CheckpointError when a file is broken or an id is not one.
    """
    sources = [
        JsonFields("generation_config.json", read_optional(path / "generation_config.json")),
        JsonFields("config.json", read_optional(path / "config.json")),
        JsonFields("tokenizer_config.json", _tokenizer_ids(path)),
    ]
    bos, eos, pad = (
        next((ids for source in sources if (ids := source.token_ids(name))), ())
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    )
    return SpecialTokens(
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=eos,
        pad_token_id=pad[0] if pad else None,
    )


def _tokenizer_ids(path: Path) -> dict[str, int | None]:
    """What tokenizer_config.json names as text ("eos_token"), looked up in tokenizer.json."""
    if not (path / "tokenizer.json").is_file():
        return {}
    tokenizer = load_tokenizer(path)
    ids = {}
    for role, token in read_optional(path / "tokenizer_config.json").items():
        content = token.get("content") if isinstance(token, dict) else token
        if role in ("bos_token", "eos_token", "pad_token") and isinstance(content, str):
            ids[f"{role}_id"] = tokenizer.token_to_id(content)
    return ids


def read_optional(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty without it. Raises CheckpointError."""
    return read_json(path) if path.is_file() else {}
