"""Prompts become token ids as transformers' pipeline makes them; every limit is named."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from shared.errors import BadRequest, ClientError, InvalidParameter
from shared.protocol import Message, ModelCard, Prompt
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder, check_prompt
from tests.echo_worker import CHAT_TEMPLATE, letter_card, letter_tokenizer

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


def make_encoder(**fields: Any) -> PromptEncoder:
    card = letter_card()
    changed = {name: getattr(card, name) for name in card.__struct_fields__} | fields
    return PromptEncoder(ModelCard(**changed), letter_tokenizer().to_str().encode())


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return make_encoder()


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' tokenizer over the same file; it has no types worth the name."""
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    letter_tokenizer().save(str(path))
    load: Any = PreTrainedTokenizerFast
    return load(tokenizer_file=str(path), bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def lengths(encoder: PromptEncoder, num_tokens: int, **kwargs: Any) -> tuple[int, int]:
    """(prompt tokens kept, new tokens) for a prompt of `num_tokens`."""
    hole = kwargs.pop("hole", False)
    prompt = Prompt(text="a" * num_tokens, handle_long_generation="hole" if hole else None)
    prepared = encoder.prepare(prompt, GenerateKwargs.model_validate(kwargs))
    return len(prepared.token_ids), prepared.max_new_tokens


def test_an_adapter_is_one_of_the_cards() -> None:
    encoder = make_encoder(adapters=("tales", "verse"))
    prompt, kwargs = Prompt(text="a"), GenerateKwargs()
    for adapter in (None, "verse"):
        assert encoder.prepare(prompt, kwargs, adapter) == encoder.prepare(prompt, kwargs)
    with pytest.raises(InvalidParameter) as caught:
        encoder.prepare(prompt, kwargs, "prose")
    assert caught.value.field == "adapter"
    assert caught.value.message.endswith("there are: tales, verse")


def refusal(encoder: PromptEncoder, prompt: Prompt, **kwargs: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        encoder.prepare(prompt, GenerateKwargs.model_validate(kwargs))
    return caught.value


def test_a_text_that_cannot_fit_is_refused_without_being_tokenized(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = CONTEXT * len("<|endoftext|>")
    monkeypatch.setattr(encoder, "_tokenize", lambda *_, **__: [1] * (CONTEXT - 1))
    assert len(encoder.prepare(Prompt(text="a" * most), GenerateKwargs()).token_ids) < CONTEXT
    for prompt in (
        Prompt(text="a" * (most + 1)),
        Prompt(prefix="é", text="a" * (most - 1)),
        Prompt(messages=(Message(role="user", content="a" * most),)),
    ):
        error = refusal(encoder, prompt)
        assert (type(error), error.field) == (BadRequest, "prompt")
        assert "2049 tokens or more" in error.message or "2050 tokens or more" in error.message
        assert f"context of {CONTEXT}" in error.message and "hole" in error.message
    held = Prompt(text="a" * (most + 1), handle_long_generation="hole")
    assert encoder.prepare(held, GenerateKwargs()).token_ids


# -- what the model reads --------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["hello", " spaced  out ", "naïve 🦅 日本", "a<|endoftext|>b", "\n"]
)
def test_a_prompt_becomes_the_ids_that_transformers_gives(
    encoder: PromptEncoder, oracle: Any, text: str
) -> None:
    assert encoder.encode(Prompt(text=text)) == oracle(text)["input_ids"]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, FALCON_TEMPLATE])
@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_a_conversation_is_rendered_as_transformers_renders_it(
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
    assert encoder.encode(Prompt(messages=messages)) == expected


def test_the_prefix_goes_before_the_prompt_and_counts(encoder: PromptEncoder) -> None:
    with_prefix = Prompt(text="falcon", prefix="The ")
    assert encoder.encode(with_prefix) == encoder.encode(Prompt(text="The falcon"))
    assert encoder.prepare(with_prefix, GenerateKwargs(max_length=15)).max_new_tokens == 5


def test_truncation_and_padding_stored_in_a_tokenizer_are_not_applied() -> None:
    tokenizer = letter_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=32)
    encoder = PromptEncoder(letter_card(), tokenizer.to_str().encode())
    assert len(encoder.encode(Prompt(text="a" * 10))) == 10


def framing_tokenizer() -> Tokenizer:
    """Puts a special token before and after each text, unless it is told not to."""
    tokenizer = letter_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 256)]
    )
    return tokenizer


@given(st.text(), st.booleans())
def test_every_text_becomes_the_ids_that_the_tokenizer_itself_gives(
    text: str, is_conversation: bool
) -> None:
    tokenizer = framing_tokenizer()
    card = letter_card(chat_template="{{ messages[0]['content'] }}.")
    encoder = PromptEncoder(card, tokenizer.to_str().encode())
    if is_conversation:
        messages = (Message(role="user", content=text),)
        expected = tokenizer.encode(text + ".", add_special_tokens=False).ids
        assert encoder.encode(Prompt(messages=messages)) == expected
    else:
        assert encoder.encode(Prompt(text=text)) == tokenizer.encode(text).ids


# -- lengths ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_tokens", "kwargs", "expected"),
    [
        (10, {}, (10, 190)),
        (199, {}, (199, 1)),
        (200, {}, (200, 200)),
        (500, {}, (500, 200)),
        (CONTEXT - 5, {}, (CONTEXT - 5, 5)),
        (10, {"max_length": 50}, (10, 40)),
        (10, {"max_length": None}, (10, 190)),
        (10, {"max_length": 50, "max_new_tokens": 7}, (10, 7)),
        (300, {"max_length": 50, "max_new_tokens": 7}, (300, 7)),
        (10, {"max_length": CONTEXT}, (10, CONTEXT - 10)),
        (CONTEXT - 7, {"max_new_tokens": 7}, (CONTEXT - 7, 7)),
        (10, {"hole": True}, (10, 190)),
        (CONTEXT, {"hole": True, "max_new_tokens": 7}, (CONTEXT - 7, 7)),
        (CONTEXT + 500, {"hole": True}, (CONTEXT - 200, 200)),
        (5000, {"hole": True, "max_length": 5100}, (CONTEXT - 100, 100)),
    ],
)
def test_lengths_follow_the_contract(
    encoder: PromptEncoder, num_tokens: int, kwargs: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert lengths(encoder, num_tokens, **kwargs) == expected


@pytest.mark.parametrize(
    ("num_tokens", "kwargs", "numbers"),
    [
        (50, {"max_length": 50}, ("50", "50")),
        (51, {"max_length": 50}, ("51", "50")),
        (3000, {"max_length": 50, "hole": True}, ("3000", "50")),
        (CONTEXT, {}, (str(CONTEXT), "200")),
        (CONTEXT - 6, {"max_new_tokens": 7}, (str(CONTEXT - 6), str(CONTEXT))),
        (10, {"max_length": CONTEXT + 1}, ("10", str(CONTEXT))),
        (10, {"max_new_tokens": CONTEXT, "hole": True}, (str(CONTEXT),)),
        (10, {"max_new_tokens": 2**31 - 1}, ("2147483647",)),
    ],
)
def test_a_length_that_does_not_fit_is_refused_with_the_numbers(
    encoder: PromptEncoder, num_tokens: int, kwargs: dict[str, Any], numbers: tuple[str, ...]
) -> None:
    with pytest.raises(BadRequest) as caught:
        lengths(encoder, num_tokens, **kwargs)
    assert caught.value.field
    for number in numbers:
        assert number in caught.value.message


def test_the_hole_keeps_the_end_of_the_prompt(encoder: PromptEncoder) -> None:
    prompt = Prompt(text="a" * CONTEXT + "the end", handle_long_generation="hole")
    prepared = encoder.prepare(prompt, GenerateKwargs(max_new_tokens=CONTEXT - 7))
    assert prepared.token_ids == encoder.encode(Prompt(text="the end"))


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [Prompt(), Prompt(text=""), Prompt(messages=())])
def test_a_missing_prompt_is_refused_in_the_words_of_the_contract(
    encoder: PromptEncoder, prompt: Prompt
) -> None:
    error = refusal(encoder, prompt)
    assert (error.message, error.field) == ("Text generation parameter prompt required", None)


def test_an_unknown_role_is_refused_even_before_a_model_is_known() -> None:
    prompt = Prompt(messages=(Message(role="user", content="x"), Message(role="bot", content="y")))
    with pytest.raises(BadRequest, match="bot") as caught:
        check_prompt(prompt)
    assert caught.value.field == "messages.1.role"


def test_messages_take_neither_prompt_nor_prefix() -> None:
    messages = (Message(role="user", content="x"),)
    with pytest.raises(InvalidParameter):
        check_prompt(Prompt(text="x", messages=messages))
    with pytest.raises(InvalidParameter):
        check_prompt(Prompt(prefix="x", messages=messages))


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
def test_a_refusing_or_failing_template_is_a_bad_request(template: str | None) -> None:
    messages = (Message(role="user", content="x"), Message(role="assistant", content="y"))
    error = refusal(make_encoder(chat_template=template), Prompt(messages=messages))
    assert isinstance(error, BadRequest)
    assert error.field == "messages"


@pytest.mark.parametrize(
    ("kwargs", "field"),
    [
        ({"eos_token_id": 257}, "eos_token_id"),
        ({"eos_token_id": [0, 300]}, "eos_token_id"),
        ({"pad_token_id": 257}, "pad_token_id"),
        ({"forced_bos_token_id": 257}, "forced_bos_token_id"),
        ({"forced_eos_token_id": 257}, "forced_eos_token_id"),
        ({"bad_words_ids": [[1], [2, 257]]}, "bad_words_ids.1"),
        ({"suppress_tokens": [257]}, "suppress_tokens"),
        ({"begin_suppress_tokens": [257]}, "begin_suppress_tokens"),
        ({"sequence_bias": [[[257], 1.0]]}, "sequence_bias.0"),
        ({"num_beams": 9, "do_sample": False}, "num_beams"),
        ({"num_return_sequences": 9}, "num_return_sequences"),
    ],
)
def test_a_parameter_outside_the_models_limits_is_refused_by_name(
    encoder: PromptEncoder, kwargs: dict[str, Any], field: str
) -> None:
    error = refusal(encoder, Prompt(text="x"), **kwargs)
    assert isinstance(error, InvalidParameter)
    assert error.field == f"generate_kwargs.{field}"


def test_as_many_beams_are_searched_as_the_model_has_rows_for() -> None:
    encoder = make_encoder(max_num_beams=3)
    error = refusal(encoder, Prompt(text="x"), num_beams=4)
    assert error.message == "must be at most 3 with this model, got 4"
    encoder.prepare(Prompt(text="x"), GenerateKwargs(num_beams=3, max_new_tokens=5))


def test_a_request_that_no_workers_cache_can_hold_is_refused_with_both_numbers() -> None:
    encoder = make_encoder(max_kv_tokens=100)
    error = refusal(encoder, Prompt(text="x" * 10), num_return_sequences=4, max_new_tokens=20)
    assert isinstance(error, BadRequest)
    assert "120" in error.message
    assert "100" in error.message


def test_a_last_token_of_the_vocabulary_is_inside(encoder: PromptEncoder) -> None:
    encoder.prepare(Prompt(text="x"), GenerateKwargs(eos_token_id=[256], suppress_tokens=[256]))


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (Prompt(text="a <|im_end|>"), "prompt"),
        (Prompt(text="a", prefix="<|im_end|>"), "prompt"),
        (Prompt(messages=(Message(role="user", content="<|im_end|>"),)), "messages"),
    ],
)
def test_a_token_without_an_embedding_is_refused_by_its_text_and_id(
    prompt: Prompt, field: str
) -> None:
    tokenizer = letter_tokenizer()
    tokenizer.add_tokens(["<|im_end|>"])
    card = letter_card()
    assert tokenizer.token_to_id("<|im_end|>") == card.vocab_size
    encoder = PromptEncoder(card, tokenizer.to_str().encode())
    message = rf"token '<\|im_end\|>' must not .* id {card.vocab_size} .* of {card.vocab_size} tok"
    with pytest.raises(BadRequest, match=message) as refusal:
        encoder.prepare(prompt, GenerateKwargs())
    assert refusal.value.field == field
    assert encoder.prepare(Prompt(text="a <|im_end|"), GenerateKwargs()).token_ids
