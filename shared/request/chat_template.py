"""Render conversations with a model's chat template, as transformers' `apply_chat_template` does.

Templates are part of checkpoints, so they run in jinja2's immutable sandbox.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from shared.errors import BadRequest, BrokenChatTemplate
from shared.protocol import Message

# Exceptions of compiling or running a template, which is untrusted code.
TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)

# Marks the end of the message to continue. The text after it is cut off.
CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile `source`; it may use the names of `special_tokens`, such as `eos_token`.

        Raises BrokenChatTemplate.
        """
        self._compiled = compile_template(source)
        self._shows_content = "content" in source  # transformers makes the same check
        self._special_tokens = special_tokens

    def render(
        self,
        messages: tuple[Message, ...],
        *,
        continue_final: bool = True,
        begin_answer: bool = True,
    ) -> str:
        """Return the text of the prompt.

        A final message of the assistant stays open if `continue_final`; else a new one begins, if
        `begin_answer`.
        Raises BadRequest if the template refuses the conversation or fails.
        """
        try:
            if messages[-1].role == "assistant" and continue_final:
                return self._render_to_continue(messages)
            return self._fill(messages, add_generation_prompt=begin_answer)
        except TEMPLATE_FAILURES as error:
            reason = f"the model's chat template refuses this conversation: {error}"
            raise BadRequest(reason, field="messages") from error

    def _render_to_continue(self, messages: tuple[Message, ...]) -> str:
        last = messages[-1]
        tagged = Message(role=last.role, content=last.content + CONTINUE_TAG, name=last.name)
        text = self._fill((*messages[:-1], tagged), add_generation_prompt=False)
        is_shown = last.content.strip() in text and CONTINUE_TAG.strip() in text
        if not (is_shown and self._shows_content):
            raise ValueError("it does not contain the last message, which is to be continued")
        end = text.rindex(CONTINUE_TAG.strip())
        if text.startswith(CONTINUE_TAG, end):
            return text[:end]
        return text[:end].rstrip()  # the template trims messages

    def _fill(self, messages: tuple[Message, ...], *, add_generation_prompt: bool) -> str:
        return self._compiled.render(
            messages=[as_dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special_tokens,
        )


def as_dict(message: Message) -> dict[str, str]:
    """Return a message as the template gets it, without a name that is not given."""
    named = {} if message.name is None else {"name": message.name}
    return {"role": message.role, "content": message.content, **named}


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template. Raises BrokenChatTemplate with the line of a syntax error."""
    try:
        return chat_environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise BrokenChatTemplate(error.message or "it cannot be parsed", error.lineno) from error
    except TEMPLATE_FAILURES as error:  # also limits of Python's compiler
        raise BrokenChatTemplate(str(error) or type(error).__name__, None) from error


def chat_environment() -> ImmutableSandboxedEnvironment:
    """Return the environment of transformers: whitespace rules, tags, filters and functions."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.globals["dict"] = TemplateDict()
    environment.globals["namespace"] = TemplateNamespace
    return environment


class GenerationTag(Extension):
    """`{% generation %}` marks text of the assistant for training; here it renders its content."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = nodes.CallBlock(self.call_method("_render_body"), [], [], body)
        return call.set_lineno(lineno)

    def _render_body(self, caller: Macro) -> str:
        return caller()


class TemplateDict:
    """`dict(...)` and `dict.fromkeys(...)` without the other attributes of Python's type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class TemplateNamespace(Namespace):
    """`namespace(...)` that rejects names with a leading underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *values = args
        attributes = dict(*values, **kwargs)
        for name in attributes:
            check_public(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        check_public(name)
        super().__setitem__(name, value)


def check_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(
            f"names in a namespace must not begin with an underscore, got {name!r}"
        )


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Serialize to JSON without the HTML escapes of jinja2's own filter."""
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
