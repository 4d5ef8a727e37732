"""Upper bound of the bytes of text per token, derived from a tokenizer's file.

The api refuses texts that are too long by this bound without tokenizing them, which may take
seconds.
"""

import json
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

# Pre-tokenizers that split text and keep all of it, unless their behavior is "Removed".
SPLITTERS = {"ByteLevel", "Digits", "Punctuation", "Split"}


def max_bytes_per_token(tokenizer_json: bytes) -> int | None:
    """Return the bound, or None if the tokenizer may shorten the text before it looks up tokens.

    The bound holds for byte-level BPE without a normalizer: the vocabulary has an entry for every
    byte, an entry has one character per byte, and an added token is its own text.
    """
    file: dict[str, Any] = json.loads(tokenizer_json)
    added = file.get("added_tokens") or []
    if not (_keeps_text(file) and _knows_all_bytes(file["model"])):
        return None
    if any(token["lstrip"] or token["rstrip"] for token in added):  # matches any number of spaces
        return None
    longest_added = max((len(token["content"].encode()) for token in added), default=0)
    return max(longest_added, *map(len, file["model"]["vocab"]))


def _keeps_text(file: dict[str, Any]) -> bool:
    steps = _steps(file.get("pre_tokenizer") or {})
    return (
        not file.get("normalizer")
        and "ByteLevel" in [step.get("type") for step in steps]
        and all(step["type"] in SPLITTERS and step.get("behavior") != "Removed" for step in steps)
    )


def _steps(pre_tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    if pre_tokenizer.get("type") != "Sequence":
        return [pre_tokenizer]
    return [step for inner in pre_tokenizer["pretokenizers"] for step in _steps(inner)]


def _knows_all_bytes(model: dict[str, Any]) -> bool:
    """Return whether every byte has an entry, so that no part of a text can be dropped."""
    is_marked = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    is_bpe = model.get("type") == "BPE" and not is_marked
    return is_bpe and set(ByteLevel.alphabet()) <= model["vocab"].keys()
