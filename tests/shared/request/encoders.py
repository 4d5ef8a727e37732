"""Prompt encoders of a model of letters, and their results for a prompt."""

from typing import Any

import pytest

from shared.errors import ClientError
from shared.protocol import ChatJob, ModelCard
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder
from tests.echo_worker import letter_card, letter_tokenizer
from tests.factories import make_job


def make_encoder(**fields: Any) -> PromptEncoder:
    card = letter_card()
    changed = {name: getattr(card, name) for name in card.__struct_fields__} | fields
    return PromptEncoder(ModelCard(**changed), letter_tokenizer().to_str().encode())


def token_ids(encoder: PromptEncoder, **prompt: Any) -> list[int]:
    """Return the token ids of a prompt or of messages."""
    return encoder.prepare(make_job(token_ids=None, **prompt), GenerateKwargs()).token_ids or []


def lengths(encoder: PromptEncoder, num_tokens: int, **kwargs: Any) -> tuple[int, int]:
    """Return the kept prompt tokens and the new tokens for a prompt of `num_tokens`."""
    hole = kwargs.pop("hole", False)
    job = make_job(prompt="a" * num_tokens, handle_long_generation="hole" if hole else None)
    prepared = encoder.prepare(job, GenerateKwargs.model_validate(kwargs))
    return len(prepared.token_ids or ()), prepared.max_new_tokens or 0


def refusal(encoder: PromptEncoder, job: ChatJob, **kwargs: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        encoder.prepare(job, GenerateKwargs.model_validate(kwargs))
    return caught.value
