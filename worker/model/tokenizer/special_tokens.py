"""Ids that a checkpoint gives a meaning, checked against the rows of its embedding table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from worker.model.checkpoint.json_fields import JsonFields, read_optional
from worker.model.config import is_legacy
from worker.model.errors import CheckpointError
from worker.model.tokenizer.chat_template_files import load_template_tokens
from worker.model.tokenizer.tokenizer_files import load_tokenizer

logger = logging.getLogger(__name__)

# The defaults of the first releases' own code, which meant BLOOM's tokens.
_LEGACY_DEFAULTS = {"bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Several tokens may end a text. Each id is a row of the embedding table."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None


def load_special_tokens(path: Path, vocab_size: int, conversation: str = "") -> SpecialTokens:
    """Special token ids from generation_config.json, else config.json, else the tokenizer's files.

    An id beyond the `vocab_size` rows of the embedding table is ignored where nothing needs it.
    Raises CheckpointError where something does: no other token could end a text, the tokenizer
    puts it into every prompt, or the chat template into `conversation`, a sample of its text; and
    when a file is broken.
    """
    tokenizer = load_tokenizer(path) if (path / "tokenizer.json").is_file() else None
    if tokenizer is not None:
        _check_prompts(tokenizer, vocab_size, conversation)
    sources = _find_sources(path, tokenizer)
    bos, eos, pad = (
        _choose(name, sources, vocab_size, is_needed=name == "eos_token_id")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    )
    return SpecialTokens(
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=eos,
        pad_token_id=pad[0] if pad else None,
    )


def _choose(
    name: str, sources: Sequence[JsonFields], vocab_size: int, *, is_needed: bool
) -> tuple[int, ...]:
    """The ids of the first source that names one in the table."""
    complaints: list[CheckpointError] = []
    chosen: tuple[int, ...] = ()
    for source in sources:
        ids = source.token_ids(name)
        chosen = tuple(token_id for token_id in ids if token_id < vocab_size)
        complaints += [
            source.error(
                f"{name} must be less than {vocab_size}, the rows of the embedding table, "
                f"got {token_id}"
            )
            for token_id in ids
            if token_id >= vocab_size
        ]
        if chosen:
            break
    if complaints and is_needed and not chosen:
        raise complaints[0]
    for complaint in complaints:
        logger.warning("ignored: %s", complaint)
    return chosen


def _find_sources(path: Path, tokenizer: Tokenizer | None) -> list[JsonFields]:
    config = read_optional(path / "config.json")
    generation = read_optional(path / "generation_config.json")
    named: dict[str, int | None] = {}
    if tokenizer is not None:
        named = {
            f"{role}_id": tokenizer.token_to_id(content)
            for role, content in load_template_tokens(path).items()
        }
    if is_legacy(config) and named.get("eos_token_id") is not None:
        config, generation = _without_defaults(config), _without_defaults(generation)
    return [
        JsonFields("generation_config.json", generation),
        JsonFields("config.json", config),
        JsonFields("tokenizer_config.json", named),
    ]


def _without_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in fields.items() if _LEGACY_DEFAULTS.get(name) != v or v is None}


def _check_prompts(tokenizer: Tokenizer, vocab_size: int, conversation: str) -> None:
    """Raise CheckpointError where prompts would hold a token that has no embedding."""
    for origin, encoding in (
        ("the chat template", tokenizer.encode(conversation, add_special_tokens=False)),
        ("tokenizer.json", tokenizer.encode("")),
    ):
        for token_id, token in zip(encoding.ids, encoding.tokens, strict=True):
            if token_id >= vocab_size:
                raise CheckpointError(
                    f"{origin} puts {token!r} into every prompt: its id {token_id} must be less "
                    f"than {vocab_size}, the rows of the embedding table"
                )
