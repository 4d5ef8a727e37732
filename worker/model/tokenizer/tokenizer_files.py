"""The tokenizer of a checkpoint: tokenizer.json, and the tokens that other files add to it.

transformers also reads added_tokens.json, tokenizer_config.json and special_tokens_map.json. A
token that only they name is a single token there, so it must be one here.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from worker.model.errors import CheckpointError, unreadable
from worker.model.json_fields import read_optional
from worker.model.tokenizer.chat_template_files import load_template_tokens

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
_FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")


def load_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer of a folder. Raises CheckpointError if it is absent or broken."""
    file = path / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(
            f"no tokenizer.json in {path}; AutoTokenizer.from_pretrained(...).save_pretrained(...) "
            "writes one from an older tokenizer"
        )
    try:
        data = file.read_bytes()
        text = data.decode(json.detect_encoding(data))  # drops a byte order mark
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the Rust side raises bare Exception
        raise unreadable(file, error) from error
    _add_missing(tokenizer, path)
    return tokenizer


def _add_missing(tokenizer: Tokenizer, path: Path) -> None:
    """Add tokens that tokenizer.json lacks, by id: new tokens get the next free ids."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in _tokens_of_other_files(path):
        if token.content and token.content not in known:
            add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
            add([token])
            known.add(token.content)


def _tokens_of_other_files(path: Path) -> Iterator[AddedToken]:
    by_id = read_optional(path / "tokenizer_config.json").get("added_tokens_decoder")
    if isinstance(by_id, Mapping):
        yield from (_added(by_id[key]) for key in sorted(by_id, key=_number))
    named = list(load_template_tokens(path).values())
    ids = read_optional(path / "added_tokens.json")
    for content in sorted(ids, key=lambda content: _number(ids[content])):
        yield AddedToken(content, special=content in named, normalized=content not in named)
    yield from (AddedToken(content, special=True) for content in (*named, *_unnamed(path)))


def _unnamed(path: Path) -> Iterator[str]:
    """Yield special tokens without a role; transformers 4 and 5 name the list differently."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for field in ("additional_special_tokens", "extra_special_tokens"):
            tokens = read_optional(path / name).get(field)
            for token in tokens if isinstance(tokens, list) else ():
                yield _content(token) or ""


def _added(token: Any) -> AddedToken:
    flags = {name: token[name] for name in _FLAGS if isinstance(token, dict) and name in token}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise CheckpointError(f"added tokens: the flags of {token!r} must be true or false")
    return AddedToken(_content(token) or "", **flags)


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _number(token_id: Any) -> int:
    """Parse a token id. Raises CheckpointError."""
    try:
        return int(token_id)
    except (TypeError, ValueError, OverflowError):  # Python's JSON reads Infinity
        raise CheckpointError(f"added tokens: {token_id!r} must be a token id") from None
