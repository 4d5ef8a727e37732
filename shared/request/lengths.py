"""How long a request may get: the rules between prompt, `max_length`, `max_new_tokens`, context.

Plain arithmetic on token counts; knows no tokenizer and no text.
"""

from dataclasses import dataclass

from shared.errors import BadRequest
from shared.request.parameters import GenerateKwargs

WAYS_OUT = 'ask for less, or set handle_long_generation to "hole" to drop the prompt\'s start'


@dataclass(frozen=True, slots=True)
class Lengths:
    """In tokens; `prompt` is what is kept of it, counted from its end."""

    prompt: int
    max_new_tokens: int


def plan_lengths(prompt: int, kwargs: GenerateKwargs, context: int, *, hole: bool) -> Lengths:
    """Lengths for a prompt of `prompt` tokens in a context of `context`.

    With `hole` the start of the prompt makes room for what is to be generated. Raises BadRequest
    with both numbers where the prompt leaves no room; nothing is ever cut without being asked for.
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
    """New tokens asked for, context aside; raises BadRequest if `max_length` leaves none."""
    if kwargs.max_new_tokens is not None:
        return kwargs.max_new_tokens
    if prompt < kwargs.max_length:
        return kwargs.max_length - prompt
    if _length_given(kwargs):
        raise BadRequest(
            f"the prompt has {prompt} tokens and max_length is {kwargs.max_length}, "
            "which leaves none to generate; raise it or give max_new_tokens",
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
    blamed = next(
        (name for name in ("max_new_tokens", "max_length") if name in kwargs.model_fields_set), None
    )
    return BadRequest(
        f"the prompt's {prompt} tokens and {wanted} new ones exceed the model's context of "
        f"{context}; {WAYS_OUT}",
        field=f"generate_kwargs.{blamed}" if blamed and prompt < context else "prompt",
    )


def too_many_bytes(num_bytes: int, least_tokens: int, context: int) -> BadRequest:
    """For a prompt that needs no tokenizing to be too long."""
    return BadRequest(
        f"the prompt's {num_bytes} bytes are {least_tokens} tokens or more and exceed the model's "
        f"context of {context}; {WAYS_OUT}",
        field="prompt",
    )
