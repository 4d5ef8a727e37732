"""The input of a response: a text, or messages whose content is text."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import BeforeValidator, Field

from api.chat_messages import ChatMessage
from api.openai.fields import refused
from api.schemas import MAX_MESSAGES
from shared.request.base_model import OptionalFieldsModel
from shared.request.parameter_types import rule_error

MAX_PARTS = 1024
MAX_ITEM_ID = 255  # characters
MESSAGES_ONLY = "models here read messages only"
TEXT_ONLY = "models here read text only"
SPOKEN_AS = {"developer": "system"}  # OpenAI's newer name of the role

Role = Literal["user", "assistant", "system", "developer"]
Text = Annotated[str, Field(min_length=1)]


class ContentPart(OptionalFieldsModel):
    """A text in the content of a message."""

    type: Annotated[Any, refused(TEXT_ONLY, "input_text", "output_text", "text")] = Field(
        description="The kind of text."
    )
    text: str
    # Clients send these back with the messages of earlier responses.
    annotations: list[Any] | None = Field(
        default=None, max_length=MAX_PARTS, description="No effect: not part of the text."
    )
    logprobs: list[Any] | None = Field(default=None, description="No effect: not part of the text.")
    prompt_cache_breakpoint: Annotated[Any, refused("prefixes are shared by all requests")] = None


Parts = Annotated[list[ContentPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]


def as_parts(content: Any) -> Any:
    """Return a list of parts for a text; return any other value for pydantic to check."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


class InputMessage(OptionalFieldsModel):
    """A message of the conversation."""

    nullable_fields: ClassVar[frozenset[str]] = frozenset({"role", "content"})

    type: Annotated[Any, refused(MESSAGES_ONLY, "message")] = "message"
    role: Role = Field(description="`developer` speaks as `system`.")
    content: Annotated[Parts, BeforeValidator(as_parts, json_schema_input_type=str | Parts)] = (
        Field(description="A text, or parts that are concatenated.")
    )
    id: str | None = Field(
        default=None, max_length=MAX_ITEM_ID, description="No effect: items get ids of their own."
    )
    status: Literal["in_progress", "completed", "incomplete"] | None = Field(
        default=None, description="No effect: the text is taken as it is."
    )
    phase: Literal["commentary", "final_answer"] | None = Field(
        default=None, description="No effect: chat templates here have no phases."
    )

    def to_item(self) -> "Item":
        return Item(role=self.role, texts=[part.text for part in self.content])


Messages = Annotated[
    list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]


def as_messages(value: Any) -> Any:
    """Return a list of one message for a text; return any other value for pydantic to check."""
    if value == "":
        raise rule_error("must not be empty")
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


Input = Annotated[Messages, BeforeValidator(as_messages, json_schema_input_type=Text | Messages)]


class Item(msgspec.Struct, frozen=True):
    """A message as it is stored."""

    role: Role
    texts: list[str]  # of its parts

    def to_message(self) -> ChatMessage:
        """Return the message as the chat template gets it."""
        role = SPOKEN_AS.get(self.role, self.role)
        return ChatMessage.model_construct(role=role, content="".join(self.texts))
