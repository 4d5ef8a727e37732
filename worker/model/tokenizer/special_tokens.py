"""The special token ids of a checkpoint, checked against the rows of its embedding table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from worker.model.config import is_legacy
from worker.model.errors import CheckpointError
from worker.model.json_fields import JsonFields, read_optional
from worker.model.tokenizer.chat_template_files import load_template_tokens
from worker.model.tokenizer.tokenizer_files import load_tokenizer

logger = logging.getLogger(__name__)

# The defaults of the first releases' code, which are BLOOM's tokens.
_LEGACY_DEFAULTS = {"bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Each id is a row of the embedding table."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None


def load_special_tokens(path: Path, vocab_size: int, conversation: str = "") -> SpecialTokens:
    """Load special token ids from generation_config.json, config.json or the tokenizer's files.

    An id beyond the `vocab_size` rows of the embedding table is ignored if nothing needs it. Raises
    CheckpointError if a file is broken or such an id is needed: no other token can end a text, the
    tokenizer puts it into every prompt, or the chat template puts it into `conversation`, a sample.
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
    """Return the ids of the first source with an id in the table."""
    problems: list[CheckpointError] = []
    chosen: tuple[int, ...] = ()
    for source in sources:
        ids = source.token_ids(name)
        chosen = tuple(token_id for token_id in ids if token_id < vocab_size)
        problems += [
            source.error(
                f"{name} must be less than {vocab_size}, the rows of the embedding table, "
                f"got {token_id}"
            )
            for token_id in ids
            if token_id >= vocab_size
        ]
        if chosen:
            break
    if problems and is_needed and not chosen:
        raise problems[0]
    for problem in problems:
        logger.warning("ignored: %s", problem)
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
    """Raise CheckpointError if prompts would hold a token without an embedding."""
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
