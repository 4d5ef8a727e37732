"""The body of `POST /v1/responses`."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field

from api.chat_messages import ChatMessage
from api.examples import RESPONSE
from api.openai.fields import CompletionWindow, StreamOptions, refused, unsupported, window_s
from api.openai.request import MAX_USER, OpenAIRequest
from api.openai.responses.input import MAX_ITEM_ID, Input, Item
from api.openai.responses.text import TextOptions
from api.schemas import ChatRequest
from shared.errors import InvalidParameter
from shared.queue.keys import JOB_TTL_S
from shared.request.base_model import OptionalFieldsModel
from shared.request.limits import MAX_TOP_LOGPROBS
from shared.request.parameter_types import INTEGER, PositiveCount
from shared.request.structured_outputs import StructuredOutputs

UNSTORED_TTL_S = 600  # of a response with `store: false`, as OpenAI keeps those in the background
LOGPROBS = "message.output_text.logprobs"
NO_REASONING = "models here do not reason"
NO_TOOLS = 'models here do not call tools; set tool_choice to "none"'
USAGE = "the last event has the usage, and no other"

Include = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]


class BackgroundOptions(OptionalFieldsModel):
    """Options of a response in the background."""

    completion_window: CompletionWindow = Field(
        default="soonest", description="A deadline: `soonest`, or a duration such as `90s` or `2h`."
    )
    continuation_id: str | None = Field(
        default=None, max_length=MAX_USER, description="No effect: prefixes are shared anyway."
    )


class ResponseStreamOptions(StreamOptions):
    """Options of a stream of events."""

    include_usage: Annotated[bool, refused(USAGE, True)] = True
    continuous_usage_stats: Annotated[bool, refused(USAGE, False)] = False


class ResponseRequest(OpenAIRequest):
    """The input of a response, and how to respond."""

    model_config = ConfigDict(json_schema_extra={"examples": [RESPONSE]})
    prompt_field: ClassVar[str] = "input"

    input: Input = Field(description="A text, or the messages of a conversation.")
    instructions: str | None = Field(
        default=None, description="A system message before all others, for this response only."
    )
    previous_response_id: str | None = Field(
        default=None,
        max_length=MAX_ITEM_ID,
        description="Continue the conversation of this response.",
    )
    max_output_tokens: PositiveCount | None = Field(
        default=None, description="Most new tokens. Default: up to the end of the context."
    )
    stream: bool = Field(default=False, description="Send typed events.")
    stream_options: ResponseStreamOptions | None = Field(
        default=None, description="With `stream` only."
    )
    background: bool = Field(
        default=False, description="Return the queued response at once; it survives a disconnect."
    )
    background_options: BackgroundOptions | None = Field(
        default=None, description="With `background` only: `completion_window`."
    )
    store: bool = Field(
        default=True,
        description="False: only a response in the background can be retrieved, for ten minutes.",
    )
    include: list[Include] | None = Field(
        default=None, max_length=16, description="Log-probabilities; there is no reasoning."
    )
    text: TextOptions = Field(
        default_factory=TextOptions,
        description="`format`: `text`, `json_object`, or `json_schema`, which is enforced.",
    )
    response_format: Annotated[Any, refused("set text.format")] = None
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None, description="`auto` drops the start of a conversation that is too long."
    )
    safety_identifier: str | None = Field(
        default=None, max_length=MAX_USER, description="No effect: no model here moderates."
    )
    prompt_cache_key: str | None = Field(
        default=None, max_length=MAX_USER, description="No effect: prefixes are shared anyway."
    )
    tool_choice: Annotated[Any, refused(NO_TOOLS, "none", "auto")] = None
    tools: list[Any] | None = Field(
        default=None, max_length=1024, description='Only with `tool_choice: "none"`.'
    )
    parallel_tool_calls: Annotated[Any, refused(NO_TOOLS, False, True)] = None
    max_tool_calls: Annotated[Any, refused("models here do not call tools")] = None
    reasoning: Annotated[Any, refused(NO_REASONING, {}, {"effort": "none"})] = None
    access_programs: Annotated[Any, refused("there are no such programs here")] = None
    context_management: Annotated[Any, refused('set truncation to "auto"')] = None
    conversation: Annotated[Any, refused("set previous_response_id")] = None
    image: Annotated[Any, refused("models here read and write text only")] = None
    moderation: Annotated[Any, refused("no model here moderates")] = None
    prompt: Annotated[Any, refused("no prompts are stored here; send the input")] = None
    prompt_cache_options: Annotated[Any, refused("prefixes are shared by all requests")] = None
    prompt_cache_retention: Annotated[
        Any, refused("prefixes stay while there is room", "in_memory")
    ] = None
    return_token_ids: bool = Field(
        default=False, description="The result of `/jobs/{id}` has the token ids."
    )
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), INTEGER] | None = Field(
        default=None, description="The result of `/jobs/{id}` has the log-probabilities."
    )

    @property
    def wants_logprobs(self) -> bool:
        asks = LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
        return asks or self.output_scores or self.return_dict_in_generate

    @property
    def is_kept(self) -> bool:
        """Return whether `GET /v1/responses/{id}` finds the response."""
        return self.store or self.background

    @property
    def window_s(self) -> int | None:
        options = self.background_options
        return None if options is None else window_s(options.completion_window)

    def check(self) -> None:
        super().check()
        if self.background_options is not None and not self.background:
            reason = "must not be given without background"
            raise InvalidParameter(reason, field="background_options")
        if self.tools and self.tool_choice != "none":
            reason = unsupported(NO_TOOLS).message()
            raise InvalidParameter(reason, field="tools", code="unsupported_parameter")
        if self.truncation is not None and self.handle_long_generation is not None:
            reason = "must not be given together with handle_long_generation"
            raise InvalidParameter(reason, field="truncation")
        self._check_window()

    def _check_window(self) -> None:
        if self.window_s is None:
            return
        field = "background_options.completion_window"
        if self.deadline_s is not None:
            raise InvalidParameter("must not be given together with deadline_s", field=field)
        if self.window_s > JOB_TTL_S:
            limit = f"must be at most {JOB_TTL_S // 3600}h, got {self.window_s} seconds"
            raise InvalidParameter(limit, field=field)

    def check_structure(self) -> None:
        super().check_structure()
        if self.text.format.structure() is not None and super().structure() is not None:
            raise InvalidParameter(
                "must not be given together with another structure", field="text.format"
            )

    def structure(self) -> StructuredOutputs | dict[str, Any] | None:
        return self.text.format.structure() or super().structure()

    def structure_field(self, rest: str) -> str:
        if self.text.format.structure() is None:
            return super().structure_field(rest)
        return "text.format" if self.text.format.json_schema is None else "text.format.schema"

    def kwargs(self) -> dict[str, Any]:
        kwargs = super().kwargs()
        kwargs.pop("top_logprobs", None)
        if self.wants_logprobs:
            kwargs["output_scores"] = True
            kwargs["top_logprobs"] = self.top_logprobs or None
        return kwargs

    def jobs(self) -> list[ChatRequest]:
        return [self.job(())]

    def job(self, earlier: Sequence[Item], *, unstored_ttl_s: int = UNSTORED_TTL_S) -> ChatRequest:
        """Return the request of the job, which continues the conversation `earlier`."""
        fields = self.job_fields()
        if self.window_s is not None:
            fields["deadline_s"] = float(self.window_s)
        if not self.store:
            fields.setdefault("ttl_s", unstored_ttl_s)
        if self.truncation == "auto":
            fields["handle_long_generation"] = "hole"
        return ChatRequest.model_construct(
            **fields,
            messages=self._messages(earlier),
            continue_final_message=False,
            fill_context=not self.has_length,
        )

    def _messages(self, earlier: Sequence[Item]) -> list[ChatMessage]:
        items = [*earlier, *(message.to_item() for message in self.input)]
        if self.instructions:
            items.insert(0, Item(role="system", texts=[self.instructions]))
        return [item.to_message() for item in items]

    def field_name(self, field: str | None) -> str | None:
        if field == "deadline_s" and self.window_s is not None:
            return "background_options.completion_window"
        if field == "handle_long_generation" and self.truncation is not None:
            return "truncation"
        return super().field_name(field)

    def check_line(self) -> None:
        super().check_line()
        if self.background:
            raise InvalidParameter("must be false in a batch", field="background")
        if self.store and self._is_set("store"):
            raise InvalidParameter(
                "must be false in a batch: its output has the response", field="store"
            )
        if self.previous_response_id is not None:
            reason = "must not be given in a batch; send the conversation as input"
            raise InvalidParameter(reason, field="previous_response_id")

    def for_answer(self) -> Self:
        return self.model_copy(update={"input": []})  # the response shows all other fields
