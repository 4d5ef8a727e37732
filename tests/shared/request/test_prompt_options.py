"""Prompts of token ids, models by name, predictions, and conversations that fill the context."""

from typing import Any

import pytest
from tokenizers import processors

from shared.errors import BadRequest, InvalidParameter, ModelNotFound
from shared.protocol import ChatJob, Message
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder
from tests.echo_worker import letter_card, letter_tokenizer
from tests.factories import make_job
from tests.shared.request.encoders import make_encoder, refusal, token_ids

CONTEXT = 2048
TALK = (Message(role="user", content="a"), Message(role="assistant", content="b"))


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return make_encoder()


def prepared(encoder: PromptEncoder, kwargs: dict[str, Any], **job: Any) -> ChatJob:
    return encoder.prepare(make_job(**job), GenerateKwargs.model_validate(kwargs))


def test_token_ids_are_the_prompt_itself(encoder: PromptEncoder) -> None:
    ids = token_ids(encoder, prompt="falcon")
    job = prepared(encoder, {"max_new_tokens": 3}, prompt=None, prompt_token_ids=ids)
    assert (job.token_ids, job.max_new_tokens) == (ids, 3)
    assert encoder.text_of(ids) == "falcon"


@pytest.mark.parametrize(
    ("fields", "field", "kind"),
    [
        ({"prompt": "a"}, "prompt_token_ids", InvalidParameter),
        ({"messages": TALK}, "prompt_token_ids", InvalidParameter),
        ({"prefix": "a"}, "prefix", InvalidParameter),
        ({"prompt_token_ids": [5, 257]}, "prompt_token_ids", BadRequest),
        ({"prompt_token_ids": [5] * (CONTEXT + 1)}, "prompt", BadRequest),
    ],
)
def test_invalid_token_ids_are_refused(
    encoder: PromptEncoder, fields: dict[str, Any], field: str, kind: type[Exception]
) -> None:
    job = make_job(**{"prompt": None, "prompt_token_ids": [5]} | fields)
    error = refusal(encoder, job)
    assert (type(error), error.field) == (kind, field)


def test_a_model_is_named_by_its_card_or_by_an_adapter(encoder: PromptEncoder) -> None:
    for model, adapter in ((None, None), ("letters", None), ("verse", "verse")):
        assert prepared(encoder, {}, prompt="a", model=model).adapter == adapter
    assert prepared(encoder, {}, prompt="a", model="letters", adapter="tales").adapter == "tales"
    error = refusal(encoder, make_job(prompt="a", model="gpt-4"))
    assert (type(error), error.field) == (ModelNotFound, "model")
    assert error.message == "no model 'gpt-4'; there are: letters, tales, verse"


def test_a_request_chooses_whether_special_tokens_are_added() -> None:
    tokenizer = letter_tokenizer()
    eos = "<|endoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{eos} $A", special_tokens=[(eos, 256)]
    )
    encoder = PromptEncoder(letter_card(), tokenizer.to_str().encode())
    for add, begins in ((None, True), (True, True), (False, False)):
        assert (token_ids(encoder, prompt="a", add_special_tokens=add)[0] == 256) == begins
    for add, begins in ((None, False), (True, True), (False, False)):
        ids = token_ids(encoder, messages=TALK[:1], add_special_tokens=add)
        assert (ids[0] == 256) == begins


def test_a_last_message_of_the_assistant_is_continued_or_answered(encoder: PromptEncoder) -> None:
    texts = [
        encoder.text_of(token_ids(encoder, messages=TALK, continue_final_message=continues))
        for continues in (True, False)
    ]
    assert texts == ["user: a\nassistant: b", "user: a\nassistant: b\nassistant:"]


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, CONTEXT - 10),
        ({"num_return_sequences": 8}, 8192 // 8 - 10),
        ({"max_new_tokens": 5}, 5),
        ({"max_length": 30}, 20),
    ],
)
def test_without_a_length_the_context_is_filled_as_far_as_the_cache_allows(
    encoder: PromptEncoder, kwargs: dict[str, Any], expected: int
) -> None:
    job = prepared(encoder, kwargs, prompt="a" * 10, fill_context=True)
    assert job.max_new_tokens == expected


def test_a_prompt_that_fills_the_context_itself_is_refused(encoder: PromptEncoder) -> None:
    error = refusal(encoder, make_job(prompt="a" * CONTEXT, fill_context=True))
    assert (error.field, error.code) == ("prompt", "context_length_exceeded")


def test_a_prediction_is_tokenized_up_to_a_context(encoder: PromptEncoder) -> None:
    assert prepared(encoder, {}, prompt="a").prediction_token_ids is None
    job = prepared(encoder, {}, prompt="a", prediction="falcon")
    assert job.prediction_token_ids == token_ids(encoder, prompt="falcon")
    long = prepared(encoder, {}, prompt="a", prediction="b" * 10**6)
    assert len(long.prediction_token_ids or ()) == CONTEXT
