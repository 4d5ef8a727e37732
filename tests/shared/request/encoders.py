"""Prompt encoders of a model of letters, and their results for a prompt."""

from typing import Any

import pytest

from shared.errors import ClientError
from shared.protocol import ModelCard, Prompt
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder
from tests.echo_worker import letter_card, letter_tokenizer


def make_encoder(**fields: Any) -> PromptEncoder:
    card = letter_card()
    changed = {name: getattr(card, name) for name in card.__struct_fields__} | fields
    return PromptEncoder(ModelCard(**changed), letter_tokenizer().to_str().encode())


def lengths(encoder: PromptEncoder, num_tokens: int, **kwargs: Any) -> tuple[int, int]:
    """Return the kept prompt tokens and the new tokens for a prompt of `num_tokens`."""
    hole = kwargs.pop("hole", False)
    prompt = Prompt(text="a" * num_tokens, handle_long_generation="hole" if hole else None)
    prepared = encoder.prepare(prompt, GenerateKwargs.model_validate(kwargs))
    return len(prepared.token_ids), prepared.max_new_tokens


def refusal(encoder: PromptEncoder, prompt: Prompt, **kwargs: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        encoder.prepare(prompt, GenerateKwargs.model_validate(kwargs))
    return caught.value
