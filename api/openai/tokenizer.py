"""Bodies of the tokenizer's routes, in the shapes of vLLM's."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from api.chat_messages import ChatMessage
from api.openai.fields import refused
from api.schemas import MAX_MESSAGES, MAX_MODEL_NAME
from shared.errors import InvalidParameter
from shared.request.base_model import OptionalFieldsModel
from shared.request.parameter_types import INTEGER_ITEMS, TokenIdItem

NO_MECHANISM = "no such mechanism in the tokenizer"


class TokenizeRequest(OptionalFieldsModel):
    """A prompt or a conversation."""

    model: str | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="Name of the model or of an adapter."
    )
    prompt: str | None = Field(default=None, description="Text to tokenize.")
    messages: list[ChatMessage] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_MESSAGES,
        fail_fast=True,
        description="A conversation, instead of a prompt.",
    )
    add_special_tokens: bool | None = Field(
        default=None,
        description="Let the tokenizer add its special tokens. Default: to prompts, not messages.",
    )
    return_token_strs: bool = Field(default=False, description="Return the tokens as strings too.")
    add_generation_prompt: bool = Field(
        default=True, description="Begin an answer after the messages."
    )
    continue_final_message: bool = Field(
        default=False, description="Continue a last message of the assistant."
    )
    chat_template: Annotated[Any, refused("the worker sets it: --chat-template")] = None
    chat_template_kwargs: Annotated[Any, refused(NO_MECHANISM)] = None
    media_io_kwargs: Annotated[Any, refused(NO_MECHANISM)] = None
    mm_processor_kwargs: Annotated[Any, refused(NO_MECHANISM)] = None
    tools: Annotated[Any, refused("models here do not call tools", [])] = None

    def check(self) -> None:
        """Check rules between fields. Raises InvalidParameter."""
        if (self.prompt is None) is (self.messages is None):
            raise InvalidParameter("give either prompt or messages", field="prompt")
        is_given = "add_generation_prompt" in self.model_fields_set
        if is_given and self.add_generation_prompt and self.continue_final_message:
            reason = "must not be true together with continue_final_message"
            raise InvalidParameter(reason, field="add_generation_prompt")


class DetokenizeRequest(OptionalFieldsModel):
    """Token ids to write as text."""

    model: str | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="Name of the model or of an adapter."
    )
    tokens: Annotated[list[TokenIdItem], Field(fail_fast=True), INTEGER_ITEMS] = Field(
        description="Token ids; special tokens are written too."
    )


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a prompt or a conversation."""

    count: int
    max_model_len: int  # the model's context
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(msgspec.Struct, frozen=True, kw_only=True):
    """The text of token ids."""

    prompt: str


class TokenizerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of `tokenizer_config.json` that clients read."""

    tokenizer_class: Literal["PreTrainedTokenizerFast"] = "PreTrainedTokenizerFast"
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None
    model_max_length: int
    clean_up_tokenization_spaces: bool = False


class Version(msgspec.Struct, frozen=True):
    """The version of this api."""

    version: str
