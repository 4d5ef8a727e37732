"""The body of `POST /v1/completions`."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field

from api.examples import COMPLETION
from api.openai.fields import refused
from api.openai.request import OpenAIRequest
from api.schemas import ChatRequest
from shared.errors import InvalidParameter
from shared.request.limits import MAX_TOP_LOGPROBS
from shared.request.parameter_types import INTEGER, Count, PositiveCount, PromptTokenIds, rule_error

MAX_PROMPTS = 256
DEFAULT_MAX_TOKENS = 16  # OpenAI's

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
TokenLists = Annotated[
    list[PromptTokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)
]


def as_prompts(value: Any) -> Any:
    """Return a list of prompts, each a text or token ids."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise rule_error("must be a text, a list of texts, token ids, or lists of token ids")
    return [value] if isinstance(value[0], int | float) else value


Prompts = Annotated[
    Texts | TokenLists,
    BeforeValidator(as_prompts, json_schema_input_type=Text | Texts | PromptTokenIds | TokenLists),
]


class CompletionRequest(OpenAIRequest):
    """One or several prompts, and how to continue them."""

    model_config = ConfigDict(json_schema_extra={"examples": [COMPLETION]})
    prompt_field: ClassVar[str] = "prompt"

    prompt: Prompts = Field(
        description="A text, a list of texts, token ids, or lists of token ids: a job for each."
    )
    best_of: PositiveCount | None = Field(
        default=None, description="Generate so many choices, return the `n` likeliest per token."
    )
    echo: bool = Field(default=False, description="Put the prompt before the text.")
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), INTEGER] | None = Field(
        default=None, description="Return log-probabilities, with the k likeliest tokens."
    )
    max_tokens: Count | None = Field(
        default=None, description="Most new tokens, 16 by default; 0 with `echo` only."
    )
    suffix: Annotated[Any, refused("models here continue texts only")] = None

    @property
    def is_echo_only(self) -> bool:
        """Return whether the answer has no new token."""
        return self.echo and self.max_tokens == 0

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None

    def check(self) -> None:
        super().check()
        if self.max_tokens == 0 and not self.echo:
            raise InvalidParameter("must be at least 1 without echo", field="max_tokens")
        if self.stream and self.echo and self.wants_logprobs and self.num_choices > 1:
            raise InvalidParameter("must be 1 with stream, echo and logprobs", field="n")
        if self.best_of is not None:
            if self.best_of < self.num_choices:
                reason = f"must be at least n, which is {self.num_choices}"
                raise InvalidParameter(reason, field="best_of")
            if self.stream and self.best_of > self.num_choices:
                raise InvalidParameter("must be n with stream", field="best_of")

    def kwargs(self) -> dict[str, Any]:
        kwargs = super().kwargs()
        if not {"max_length", "max_new_tokens"} & kwargs.keys():
            kwargs["max_new_tokens"] = DEFAULT_MAX_TOKENS
        if self.is_echo_only:
            kwargs["max_new_tokens"] = 1
        if self.best_of is not None:
            kwargs["num_return_sequences"] = self.best_of
            kwargs["output_scores"] = True
        if self.logprobs is not None:
            kwargs["output_scores"] = True
            kwargs["top_logprobs"] = self.logprobs or None
            if self.echo and self.prompt_logprobs is None:
                kwargs["prompt_logprobs"] = self.logprobs
        return kwargs

    def jobs(self) -> list[ChatRequest]:
        fields = self.job_fields()
        requests = []
        for prompt in self.prompt:
            name = "prompt" if isinstance(prompt, str) else "prompt_token_ids"
            requests.append(ChatRequest.model_construct(**fields | {name: prompt}))
        return requests

    def for_answer(self) -> Self:
        return self if self.echo else self.model_copy(update={"prompt": []})
