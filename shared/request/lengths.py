"""Lengths of a request, from its prompt, `max_length`, `max_new_tokens` and the model's context.

All functions compute with token counts only.
"""

from dataclasses import dataclass

from shared.errors import BadRequest
from shared.request.parameters import GenerateKwargs

REMEDY = 'ask for less, or set handle_long_generation to "hole" to drop the start of the prompt'


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens."""

    prompt: int  # kept part of the prompt, which is its end
    max_new_tokens: int


def plan_lengths(prompt: int, kwargs: GenerateKwargs, context: int, *, hole: bool) -> Lengths:
    """Return the lengths for a prompt of `prompt` tokens in a context of `context` tokens.

    With `hole` the start of the prompt is dropped to make room for the new tokens. Raises
    BadRequest with both numbers if the prompt leaves no room.
    """
    wanted = wanted_new_tokens(prompt, kwargs)
    if prompt + wanted <= context:
        return Lengths(prompt, wanted)
    if hole:
        return _with_hole(wanted, context)
    if not _length_given(kwargs) and prompt < context:
        return Lengths(prompt, context - prompt)
    raise _too_long(prompt, wanted, kwargs, context)


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


def _with_hole(wanted: int, context: int) -> Lengths:
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
    )


def too_many_bytes(num_bytes: int, least_tokens: int, context: int) -> BadRequest:
    """Return the error for a prompt whose size alone proves that it is too long."""
    return BadRequest(
        f"the prompt's {num_bytes} bytes are {least_tokens} tokens or more and exceed the model's "
        f"context of {context}; {REMEDY}",
        field="prompt",
    )
