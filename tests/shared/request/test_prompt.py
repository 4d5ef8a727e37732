"""Prompts have the token ids of transformers' pipeline, and errors name the limit."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from shared.errors import BadRequest, InvalidParameter
from shared.protocol import ChatJob, Message
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder, check_prompt
from tests.echo_worker import CHAT_TEMPLATE, letter_card, letter_tokenizer
from tests.factories import make_job
from tests.shared.request.encoders import make_encoder, refusal, token_ids

CONTEXT = 2048

FALCON_TEMPLATE = """{% for message in messages %}
{% if not loop.first %}{{ '\n' }}{% endif %}
{% if message['role'] == 'system' %}{{ 'System: ' }}
{%- elif message['role'] == 'user' %}{{ 'User: ' }}
{%- elif message['role'] == 'assistant' %}{{ 'Falcon: ' }}{% endif %}
{{ message['content'] | trim }}{% endfor %}
{% if add_generation_prompt %}{{ '\n' + 'Falcon:' }}{% endif %}{{ eos_token if loop is defined }}"""

CONVERSATIONS = [
    [("user", "What flies?")],
    [("system", "Be brief."), ("user", "What flies?")],
    [("user", "What flies?"), ("assistant", "Falcons."), ("user", "Fast?")],
    [("user", "What flies?"), ("assistant", "A falcon, which")],
    [("user", "What flies?"), ("assistant", "A falcon ")],
    [("user", "{{ 7 * 7 }} <b>"), ("assistant", "CONTINUE_FINAL_MESSAGE")],
]


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return make_encoder()


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return transformers' tokenizer of the same file, which has no useful types."""
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    letter_tokenizer().save(str(path))
    load: Any = PreTrainedTokenizerFast
    return load(tokenizer_file=str(path), bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def test_an_adapter_must_be_on_the_model_card() -> None:
    encoder = make_encoder(adapters=("tales", "verse"))
    for adapter in (None, "verse"):
        assert token_ids(encoder, prompt="a", adapter=adapter) == token_ids(encoder, prompt="a")
    error = refusal(encoder, make_job(prompt="a", adapter="prose"))
    assert (type(error), error.field) == (InvalidParameter, "adapter")
    assert error.message.endswith("there are: tales, verse")


def test_a_text_above_the_bound_is_refused_without_tokenization(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = CONTEXT * len("<|endoftext|>")
    monkeypatch.setattr(encoder, "encode", lambda *_, **__: [1] * (CONTEXT - 1))
    assert len(token_ids(encoder, prompt="a" * most)) < CONTEXT
    for job in (
        make_job(prompt="a" * (most + 1)),
        make_job(prefix="é", prompt="a" * (most - 1)),
        make_job(messages=(Message(role="user", content="a" * most),)),
    ):
        error = refusal(encoder, job)
        assert (type(error), error.field) == (BadRequest, "prompt")
        assert "2049 tokens or more" in error.message or "2050 tokens or more" in error.message
        assert f"context of {CONTEXT}" in error.message and "hole" in error.message
    held = make_job(prompt="a" * (most + 1), handle_long_generation="hole")
    assert encoder.prepare(held, GenerateKwargs()).token_ids


@pytest.mark.parametrize(
    "text", ["hello", " spaced  out ", "naïve 🦅 日本", "a<|endoftext|>b", "\n"]
)
def test_a_prompt_has_the_ids_of_transformers(
    encoder: PromptEncoder, oracle: Any, text: str
) -> None:
    assert token_ids(encoder, prompt=text) == oracle(text)["input_ids"]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, FALCON_TEMPLATE])
@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_a_conversation_is_rendered_as_in_transformers(
    oracle: Any, template: str, turns: list[tuple[str, str]]
) -> None:
    encoder = make_encoder(chat_template=template)
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    is_continued = turns[-1][0] == "assistant"
    expected = oracle.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        chat_template=template,
        add_generation_prompt=not is_continued,
        continue_final_message=is_continued,
        return_dict=True,
    )["input_ids"]
    assert token_ids(encoder, messages=messages) == expected


def test_the_prefix_precedes_the_prompt_and_counts(encoder: PromptEncoder) -> None:
    job = make_job(prompt="falcon", prefix="The ")
    prepared = encoder.prepare(job, GenerateKwargs(max_length=15))
    assert prepared.token_ids == token_ids(encoder, prompt="The falcon")
    assert prepared.max_new_tokens == 5


def test_truncation_and_padding_stored_in_a_tokenizer_are_not_applied() -> None:
    tokenizer = letter_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=32)
    encoder = PromptEncoder(letter_card(), tokenizer.to_str().encode())
    assert len(token_ids(encoder, prompt="a" * 10)) == 10


def framing_tokenizer() -> Tokenizer:
    """Puts a special token before and after each text, unless special tokens are disabled."""
    tokenizer = letter_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 256)]
    )
    return tokenizer


@given(st.text(min_size=1), st.booleans())
def test_every_text_has_the_ids_of_the_tokenizer(text: str, is_conversation: bool) -> None:
    tokenizer = framing_tokenizer()
    card = letter_card(chat_template="{{ messages[0]['content'] }}.")
    encoder = PromptEncoder(card, tokenizer.to_str().encode())
    if is_conversation:
        messages = (Message(role="user", content=text),)
        expected = tokenizer.encode(text + ".", add_special_tokens=False).ids
        assert token_ids(encoder, messages=messages) == expected
    else:
        assert token_ids(encoder, prompt=text) == tokenizer.encode(text).ids


@pytest.mark.parametrize("prompt", [{"prompt": None}, {"prompt": ""}, {"messages": ()}])
def test_a_missing_prompt_is_refused_in_the_words_of_the_contract(
    encoder: PromptEncoder, prompt: dict[str, Any]
) -> None:
    error = refusal(encoder, make_job(**prompt))
    assert (error.message, error.field) == ("Text generation parameter prompt required", None)


def test_an_unknown_role_is_refused_without_a_model() -> None:
    messages = (Message(role="user", content="x"), Message(role="bot", content="y"))
    with pytest.raises(BadRequest, match="bot") as caught:
        check_prompt(make_job(messages=messages))
    assert caught.value.field == "messages.1.role"


def test_messages_exclude_prompt_and_prefix() -> None:
    messages = (Message(role="user", content="x"),)
    with pytest.raises(InvalidParameter):
        check_prompt(make_job(prompt="x", messages=messages))
    with pytest.raises(InvalidParameter):
        check_prompt(make_job(prefix="x", messages=messages))


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].missing.deeper }}",
        "{{ messages[99]['content'] }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ missing_function() }}",
        "nothing of the conversation",
    ],
)
def test_a_template_that_refuses_or_fails_is_a_bad_request(template: str | None) -> None:
    messages = (Message(role="user", content="x"), Message(role="assistant", content="y"))
    error = refusal(make_encoder(chat_template=template), make_job(messages=messages))
    assert isinstance(error, BadRequest)
    assert error.field == "messages"


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (make_job(prompt="a <|im_end|>"), "prompt"),
        (make_job(prompt="a", prefix="<|im_end|>"), "prompt"),
        (make_job(messages=(Message(role="user", content="<|im_end|>"),)), "messages"),
    ],
)
def test_the_error_for_a_token_without_an_embedding_has_its_text_and_id(
    job: ChatJob, field: str
) -> None:
    tokenizer = letter_tokenizer()
    tokenizer.add_tokens(["<|im_end|>"])
    card = letter_card()
    assert tokenizer.token_to_id("<|im_end|>") == card.vocab_size
    encoder = PromptEncoder(card, tokenizer.to_str().encode())
    message = rf"token '<\|im_end\|>' must not .* id {card.vocab_size} .* of {card.vocab_size} tok"
    with pytest.raises(BadRequest, match=message) as refusal:
        encoder.prepare(job, GenerateKwargs())
    assert refusal.value.field == field
    assert encoder.prepare(make_job(prompt="a <|im_end|"), GenerateKwargs()).token_ids
