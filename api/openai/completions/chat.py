"""The body of `POST /v1/chat/completions`."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field

from api.chat_messages import ChatMessage, Content
from api.examples import CHAT_COMPLETION
from api.openai.fields import refused, unsupported
from api.openai.request import MAX_USER, NoText, OpenAIRequest
from api.schemas import MAX_MESSAGES, ChatRequest
from shared.errors import InvalidParameter
from shared.request.base_model import StrictModel
from shared.request.parameter_types import PositiveCount

NO_MEDIA = "models here read and write text only"
NO_TOOLS = 'models here do not call tools; set tool_choice to "none"'


class Prediction(StrictModel):
    """Text that the answer is expected to repeat."""

    type: Literal["content"]
    content: Content = Field(description="A text, or a list of text parts.")


class ChatCompletionRequest(OpenAIRequest):
    """A conversation, and how to answer it."""

    model_config = ConfigDict(json_schema_extra={"examples": [CHAT_COMPLETION]})
    prompt_field: ClassVar[str] = "messages"

    messages: list[ChatMessage] = Field(
        min_length=1, max_length=MAX_MESSAGES, fail_fast=True, description="The conversation."
    )
    max_completion_tokens: PositiveCount | None = Field(
        default=None, description="Most new tokens. Default: up to the end of the context."
    )
    logprobs: bool = Field(default=False, description="Return log-probabilities.")
    prediction: Prediction | None = Field(
        default=None, description="Drafts come from it; it changes no result."
    )
    safety_identifier: str | None = Field(
        default=None, max_length=MAX_USER, description="No effect: no model here moderates."
    )
    prompt_cache_key: str | None = Field(
        default=None, max_length=MAX_USER, description="No effect: prefixes are shared anyway."
    )
    store: bool | None = Field(
        default=None, description="No effect: each result is kept for `ttl_s`."
    )
    tool_choice: Annotated[Any, refused(NO_TOOLS, "none", "auto")] = None
    tools: list[Any] | None = Field(
        default=None, max_length=1024, description='Only with `tool_choice: "none"`.'
    )
    function_call: Annotated[Any, refused(NO_TOOLS, "none", "auto")] = None
    functions: list[Any] | None = Field(
        default=None, max_length=1024, description='Only with `function_call: "none"`.'
    )
    modalities: Annotated[Any, refused(NO_MEDIA, ["text"])] = None
    reasoning_effort: Annotated[Any, refused("models here do not reason", "none")] = None
    parallel_tool_calls: Annotated[Any, refused(NO_TOOLS, False, True)] = None
    audio: Annotated[Any, refused(NO_MEDIA)] = None
    moderation: Annotated[Any, refused("no model here moderates")] = None
    prompt_cache_options: Annotated[Any, refused("prefixes are shared by all requests")] = None
    prompt_cache_retention: Annotated[
        Any, refused("prefixes stay while there is room", "in_memory")
    ] = None
    verbosity: Annotated[Any, refused("ask for it in the conversation")] = None
    web_search_options: Annotated[Any, refused("no model here searches the web")] = None

    # vLLM's extensions.
    continue_final_message: bool = Field(
        default=False, description="Continue a last message of the assistant."
    )
    add_generation_prompt: bool = Field(
        default=True, description="Must be the opposite of `continue_final_message`, if given."
    )
    echo: Annotated[Any, refused("the answer has only new text", False)] = None
    chat_template: Annotated[Any, refused("the worker sets it: --chat-template")] = None
    chat_template_kwargs: NoText = None
    documents: NoText = None
    mm_processor_kwargs: Annotated[Any, refused(NO_MEDIA)] = None

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs or self.output_scores or self.return_dict_in_generate

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.wants_logprobs:
            raise InvalidParameter("must not be given without logprobs", field="top_logprobs")
        for tools, choice in (("tools", "tool_choice"), ("functions", "function_call")):
            if getattr(self, tools) and getattr(self, choice) != "none":
                reason = unsupported(NO_TOOLS.replace("tool_choice", choice)).message()
                raise InvalidParameter(reason, field=tools, code="unsupported_parameter")
        is_given = "add_generation_prompt" in self.model_fields_set
        if is_given and self.add_generation_prompt is self.continue_final_message:
            raise InvalidParameter(
                "must be the opposite of continue_final_message", field="add_generation_prompt"
            )

    def kwargs(self) -> dict[str, Any]:
        kwargs = super().kwargs()
        if self.wants_logprobs:
            kwargs["output_scores"] = True
            kwargs["top_logprobs"] = self.top_logprobs or None
        return kwargs

    def jobs(self) -> list[ChatRequest]:
        fields = self.job_fields()
        if self.prediction is not None:
            fields["prediction"] = self.prediction.content
        messages = [as_known_role(message) for message in self.messages]
        return [
            ChatRequest.model_construct(
                **fields,
                messages=messages,
                continue_final_message=self.continue_final_message,
                fill_context=not self.has_length,
            )
        ]

    def for_answer(self) -> Self:
        unneeded: dict[str, Any] = {
            "messages": [],
            "prediction": None,
            "tools": None,
            "functions": None,
        }
        return self.model_copy(update=unneeded)


def as_known_role(message: ChatMessage) -> ChatMessage:
    """Return the message with `system` for `developer`, OpenAI's newer name of the role."""
    if message.role != "developer":
        return message
    return message.model_copy(update={"role": "system"})
