"""Lengths of a request, and an upper bound of the bytes of text per token.

Lengths follow from the prompt, `max_length`, `max_new_tokens` and the model's context. By the bound
the api refuses texts that are too long without tokenizing them, which may take seconds.
"""

import json
from dataclasses import dataclass
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from shared.errors import BadRequest
from shared.request.parameters import GenerateKwargs

# Pre-tokenizers that split text and keep all of it, unless their behavior is "Removed".
SPLITTERS = {"ByteLevel", "Digits", "Punctuation", "Split"}

TOO_LONG = "context_length_exceeded"  # OpenAI's code

# "hole" is the name in transformers' pipelines and in KAITO.
REMEDY = 'ask for less, or set handle_long_generation to "hole" to drop the start of the prompt'


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens."""

    prompt: int  # kept part of the prompt, which is its end
    max_new_tokens: int


def plan_lengths(prompt: int, kwargs: GenerateKwargs, context: int, *, drop_start: bool) -> Lengths:
    """Return the lengths for a prompt of `prompt` tokens in a context of `context` tokens.

    With `drop_start`, the start of the prompt is dropped to make room for the new tokens. Raises
    BadRequest with both numbers if the prompt leaves no room.
    """
    wanted = wanted_new_tokens(prompt, kwargs)
    if prompt + wanted <= context:
        return Lengths(prompt, wanted)
    if drop_start:
        return _with_start_dropped(wanted, context)
    if not _length_given(kwargs) and prompt < context:
        return Lengths(prompt, context - prompt)
    raise _too_long(prompt, wanted, kwargs, context)


def fill_context(
    prompt: int, kwargs: GenerateKwargs, room: int, *, drop_start: bool
) -> GenerateKwargs:
    """Return the parameters with `max_new_tokens` up to `room` tokens, unless a length is given.

    With `drop_start`, a long prompt leaves the default length, or half of a smaller room. Without,
    a prompt without room for a new token is left for `plan_lengths` to refuse.
    """
    if _length_given(kwargs):
        return kwargs
    least = max(1, min(kwargs.max_length, room // 2)) if drop_start else 1
    return kwargs.model_copy(update={"max_new_tokens": max(least, room - prompt)})


def wanted_new_tokens(prompt: int, kwargs: GenerateKwargs) -> int:
    """Return the requested number of new tokens. Raises BadRequest if `max_length` leaves none."""
    if kwargs.max_new_tokens is not None:
        return kwargs.max_new_tokens
    if prompt < kwargs.max_length:
        return kwargs.max_length - prompt
    if _length_given(kwargs):
        raise BadRequest(
            f"the prompt has {prompt} tokens and max_length is {kwargs.max_length}, "
            "which leaves no token to generate; raise it or set max_new_tokens",
            field="generate_kwargs.max_length",
        )
    return kwargs.max_length


def _length_given(kwargs: GenerateKwargs) -> bool:
    return bool({"max_length", "max_new_tokens"} & kwargs.model_fields_set)


def _with_start_dropped(wanted: int, context: int) -> Lengths:
    if wanted >= context:
        raise BadRequest(
            f"{wanted} new tokens leave no room for a prompt in the model's context of {context}",
            field="handle_long_generation",
        )
    return Lengths(context - wanted, wanted)


def _too_long(prompt: int, wanted: int, kwargs: GenerateKwargs, context: int) -> BadRequest:
    given = next(
        (name for name in ("max_new_tokens", "max_length") if name in kwargs.model_fields_set), None
    )
    return BadRequest(
        f"the prompt's {prompt} tokens and {wanted} new ones exceed the model's context of "
        f"{context}; {REMEDY}",
        field=f"generate_kwargs.{given}" if given and prompt < context else "prompt",
        code=TOO_LONG,
    )


def too_many_bytes(num_bytes: int, least_tokens: int, context: int) -> BadRequest:
    """Return the error for a prompt whose size alone proves that it is too long."""
    return BadRequest(
        f"the prompt's {num_bytes} bytes are {least_tokens} tokens or more and exceed the model's "
        f"context of {context}; {REMEDY}",
        field="prompt",
        code=TOO_LONG,
    )


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
