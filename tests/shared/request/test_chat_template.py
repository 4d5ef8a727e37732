"""Chat templates of many forms render as transformers' `apply_chat_template` does."""

from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from shared.errors import BadRequest, BrokenChatTemplate
from shared.protocol import Message
from shared.request.chat_template import ChatTemplate
from tests.chat_templates import TEMPLATES

TOKENS = {
    "bos_token": "<s>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<pad>",
    "sep_token": "<sep>",
    "eot_token": "<|eot|>",  # no standard name
}

CONVERSATIONS = {
    "question": [("user", "What flies?")],
    "system": [("system", "Be brief."), ("user", "What flies?")],
    "turns": [("user", "What flies?"), ("assistant", "Falcons."), ("user", "Fast?")],
    "system and turns": [
        ("system", "Be brief."),
        ("user", "What flies?"),
        ("assistant", "Falcons."),
        ("user", "Fast?"),
    ],
    "unicode": [("system", "Sei kurz \U0001f985"), ("user", "naïve 日本語 \u2028 e\u0301")],
    "spaces": [("user", "  two\n\nlines \r\n"), ("assistant", " yes\t"), ("user", "\n")],
    "markup": [("user", "{{ 7 * 7 }} {% raw %} <b>&amp;</b> <|im_end|> \"quoted\" 'x'")],
    "to continue": [("user", "What flies?"), ("assistant", "A falcon, which")],
    "to continue after a space": [("user", "What flies?"), ("assistant", "A falcon ")],
    "empty": [("user", "")],
    "users only": [("user", "One."), ("user", "Two.")],
    "assistant first": [("assistant", "Hello."), ("user", "Hello.")],
    "system last": [("user", "One."), ("system", "Be brief.")],
}


@pytest.fixture(scope="module")
def oracle() -> Any:
    """Return transformers' tokenizer, which has no useful types."""
    load: Any = PreTrainedTokenizerFast
    return load(tokenizer_object=Tokenizer(models.BPE()), **TOKENS)


def rendered_by_transformers(oracle: Any, source: str, messages: list[dict[str, str]]) -> str:
    is_continued = messages[-1]["role"] == "assistant"
    text = oracle.apply_chat_template(
        messages,
        chat_template=source,
        tokenize=False,
        add_generation_prompt=not is_continued,
        continue_final_message=is_continued,
    )
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(oracle: Any, name: str) -> None:
    """The text is equal, or the refusal has the words of the template."""
    source, texts = TEMPLATES[name], 0
    template = ChatTemplate(source, TOKENS)
    for conversation in CONVERSATIONS.values():
        messages = [{"role": role, "content": content} for role, content in conversation]
        given = tuple(Message(**message) for message in messages)
        try:
            expected = rendered_by_transformers(oracle, source, messages)
        except (TemplateError, ValueError, TypeError, LookupError) as error:
            with pytest.raises(BadRequest) as caught:
                template.render(given)
            assert caught.value.field == "messages"
            if type(error) is TemplateError:  # of `raise_exception`
                assert caught.value.message.endswith(str(error))
        else:
            assert template.render(given) == expected
            texts += 1
    assert texts >= 5 or name in ("unsafe", "changes-messages", "private-names", "undefined-deeper")


def test_the_templates_have_many_forms() -> None:
    assert len(TEMPLATES) >= 40


def test_a_name_is_passed_to_the_template_only_if_given(oracle: Any) -> None:
    messages = [
        {"role": "user", "content": "Who?", "name": "Ann"},
        {"role": "user", "content": "?"},
    ]
    for name in ("named-speakers", "as-json"):
        expected = rendered_by_transformers(oracle, TEMPLATES[name], messages)
        given = tuple(Message(**message) for message in messages)
        assert ChatTemplate(TEMPLATES[name], TOKENS).render(given) == expected
    assert "Ann" in expected and expected.count("name") == 3


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("{% if %}", 1),
        ("a\n{{ messages | no_such_filter }}", 2),
        ("a\n\n{% for m in messages %}", 3),
        ("a\n{% unknown %}", 2),
        ("{% generation %}", 1),
        ("{% break %}", None),
        ("{{ '" + "\\ud800" + "' }}{% endif %}", 1),
        ("{% for a in x %}" * 30 + "{% endfor %}" * 30, None),  # more than Python can nest
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", None),
    ],
)
def test_a_template_that_cannot_be_compiled_is_an_error(source: str, line: int | None) -> None:
    with pytest.raises(BrokenChatTemplate) as caught:
        ChatTemplate(source, {})
    assert caught.value.line == line
    assert caught.value.message


def test_an_endless_loop_is_refused() -> None:
    template = ChatTemplate("{% for i in range(10 ** 9) %}{% endfor %}", {})
    with pytest.raises(BadRequest, match="Range too big"):
        template.render((Message(role="user", content="x"),))
