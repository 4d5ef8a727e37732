"""Messages of a conversation, as clients of OpenAI's interface send them."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from shared.protocol import Message
from shared.request.base_model import OptionalFieldsModel, StrictModel
from shared.request.parameter_types import rule_error

MAX_NAME = 255  # characters
MAX_SHOWN = 40  # characters of a value of the request in an error message


class TextPart(StrictModel):
    """A part of a message's content. Parts of other types are invalid."""

    type: Literal["text"]
    text: str


def join_parts(content: Any) -> Any:
    """Concatenate a list of text parts; return any other value as it is, for pydantic to check."""
    if not isinstance(content, list):
        return content
    if not content:
        raise rule_error("must have at least one part")
    return "".join(text_of(part, index) for index, part in enumerate(content))


def text_of(part: Any, index: int) -> str:
    if not isinstance(part, dict):
        raise rule_error(f'part {index} must be an object {{"type": "text", "text": "..."}}')
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        shown = repr(kind[:MAX_SHOWN]) if isinstance(kind, str) else "none"
        raise rule_error(f'part {index} must be of type "text", got {shown}')
    if not isinstance(text, str):
        raise rule_error(f"part {index} must have a string as its text")
    if unknown := part.keys() - {"type", "text"}:
        raise rule_error(f"part {index} has an unknown parameter {min(unknown)[:MAX_SHOWN]!r}")
    return text


def only_empty(why: str) -> BeforeValidator:
    """Validate a field that clients send empty: it must be null or an empty list."""

    def check(value: Any) -> None:
        if value not in (None, []):
            raise rule_error(f"must be null or empty: {why}")

    empty_list = Annotated[list[Any], Field(max_length=0)]
    return BeforeValidator(check, json_schema_input_type=empty_list | None)


NoTools = Annotated[None, only_empty("models here do not call tools")]
NoRefusal = Annotated[None, only_empty("models here do not read refusals")]
NoMedia = Annotated[None, only_empty("models here read text only")]
Content = Annotated[
    str,
    BeforeValidator(
        join_parts, json_schema_input_type=str | Annotated[list[TextPart], Field(min_length=1)]
    ),
]


class ChatMessage(OptionalFieldsModel):
    nullable_fields: ClassVar[frozenset[str]] = frozenset({"role", "content"})

    role: str = Field(description="system, user or assistant.", examples=["user"])
    content: Content = Field(
        description="A text, or a list of text parts that are concatenated.",
        examples=["Tell me about falcons."],
    )
    name: str | None = Field(
        default=None, max_length=MAX_NAME, description="For chat templates with names."
    )
    # Clients of OpenAI's interface add these to the answers that they send back. Ignored.
    tool_calls: NoTools = Field(default=None, description="Null or empty: there are no tools.")
    tool_call_id: NoTools = Field(default=None, description="Null: there are no tools.")
    function_call: NoTools = Field(default=None, description="Null: there are no functions.")
    refusal: NoRefusal = Field(default=None, description="Null.")
    audio: NoMedia = Field(default=None, description="Null: text only.")
    annotations: NoMedia = Field(default=None, description="Null or empty: text only.")

    def to_message(self) -> Message:
        return Message(role=self.role, content=self.content, name=self.name)
