"""Renders a conversation with a model's chat template, as transformers' `apply_chat_template` does.

Templates come with checkpoints, so they run in jinja2's immutable sandbox. Knows no tokenizer.
"""

import json
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.errors import BadRequest
from shared.protocol import Message

# What a template may raise beside jinja2's own errors: it is code, run on foreign values.
TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# Marks the end of the message to continue; whatever the template puts behind it is cut off.
CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        """`special_tokens`: what the template may call `bos_token`, `eos_token`, ..."""
        self._source = source
        self._special_tokens = special_tokens
        self._compiled: jinja2.Template | None = None

    def render(self, messages: tuple[Message, ...]) -> str:
        """The text the model reads. A last message of the assistant is continued, not answered.

        Raises BadRequest where the template refuses the conversation or is broken itself.
        """
        try:
            if messages[-1].role == "assistant":
                return self._render_to_continue(messages)
            return self._fill(messages, add_generation_prompt=True)
        except TEMPLATE_FAILURES as error:
            reason = f"the model's chat template refuses this conversation: {error}"
            raise BadRequest(reason, field="messages") from error

    def _render_to_continue(self, messages: tuple[Message, ...]) -> str:
        last = messages[-1]
        tagged = (*messages[:-1], Message(role=last.role, content=last.content + CONTINUE_TAG))
        text = self._fill(tagged, add_generation_prompt=False)
        if last.content.strip() not in text or CONTINUE_TAG.strip() not in text:
            raise ValueError("it does not show the last message, which is to be continued")
        end = text.rindex(CONTINUE_TAG.strip())
        if text.startswith(CONTINUE_TAG, end):
            return text[:end]
        return text[:end].rstrip()  # the template trims messages

    def _fill(self, messages: tuple[Message, ...], *, add_generation_prompt: bool) -> str:
        if self._compiled is None:
            self._compiled = chat_environment().from_string(self._source)
        return self._compiled.render(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special_tokens,
        )


def chat_environment() -> ImmutableSandboxedEnvironment:
    """Whitespace rules, filters and functions that templates on the hub are written for."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML, which a prompt must not be."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
