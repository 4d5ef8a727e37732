"""What a tokenizer's file proves of lengths: the most bytes of text that one token can stand for.

So that a text that cannot fit is refused without being tokenized, which may take seconds.
"""

import json
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

# They cut text, and drop nothing of it; those with a behavior do unless that is "Removed".
CUTTING = {"ByteLevel", "Digits", "Punctuation", "Split"}


def max_bytes_per_token(tokenizer_json: bytes) -> int | None:
    """None where nothing is proven: the text may become shorter on its way to the vocabulary.

    Of byte-level BPE without a normalizer every byte is in a token: each has an entry of its own,
    entries are spelled with one character for a byte, and added tokens stand for their own text.
    """
    file: dict[str, Any] = json.loads(tokenizer_json)
    added = file.get("added_tokens") or []
    if not (_keeps_text(file) and _knows_all_bytes(file["model"])):
        return None
    if any(token["lstrip"] or token["rstrip"] for token in added):  # takes any number of spaces
        return None
    longest_added = max((len(token["content"].encode()) for token in added), default=0)
    return max(longest_added, *map(len, file["model"]["vocab"]))


def _keeps_text(file: dict[str, Any]) -> bool:
    steps = _steps(file.get("pre_tokenizer") or {})
    return (
        not file.get("normalizer")
        and "ByteLevel" in [step.get("type") for step in steps]
        and all(step["type"] in CUTTING and step.get("behavior") != "Removed" for step in steps)
    )


def _steps(pre_tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    if pre_tokenizer.get("type") != "Sequence":
        return [pre_tokenizer]
    return [step for inner in pre_tokenizer["pretokenizers"] for step in _steps(inner)]


def _knows_all_bytes(model: dict[str, Any]) -> bool:
    """What is not in the vocabulary could vanish, be it only in the spelling of a word's parts."""
    is_marked = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    is_bpe = model.get("type") == "BPE" and not is_marked
    return is_bpe and set(ByteLevel.alphabet()) <= model["vocab"].keys()
