"""The fields that OpenAI's requests for chat and text completions have in common.

A request is translated to one `ChatRequest` per prompt: from there on, its jobs are like any other.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from api.openai.fields import LogitBias, Stop, StreamOptions, refused
from api.openai.structure import StructuredRequest
from api.schemas import MAX_ADAPTER_NAME, MAX_MODEL_NAME, ChatRequest, Metadata, Reuse
from shared.errors import InvalidParameter
from shared.queue.keys import JOB_TTL_S
from shared.request.limits import MAX_INT, MAX_SCALE
from shared.request.parameter_types import INTEGER, Count, PositiveCount
from shared.request.parameters import GenerateKwargs

MAX_USER = 1024  # characters
FLEX_PRIORITY = -5
TIER_PRIORITIES = {"auto": 0, "default": 0, "flex": FLEX_PRIORITY, "priority": -FLEX_PRIORITY}

# OpenAI's and vLLM's names of generation parameters; where both names are known, either is given.
KWARGS_NAMES = {
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "n": "num_return_sequences",
    "stop": "stop_strings",
    "min_tokens": "min_new_tokens",
}
# Fields with the same name and meaning in `ChatRequest`.
JOB_FIELDS = (
    "deadline_s",
    "ttl_s",
    "reuse",
    "adapter",
    "handle_long_generation",
    "clean_up_tokenization_spaces",
    "add_special_tokens",
    "metadata",
)
LENGTHS = {
    "max_length",
    "max_new_tokens",
    *(name for name, kwarg in KWARGS_NAMES.items() if kwarg == "max_new_tokens"),
}
ENGINE = "no such mechanism in the engine"

NoText = Annotated[Any, refused(ENGINE)]


class OpenAIRequest(StructuredRequest):
    """A request below `/v1`: OpenAI's fields, vLLM's and all of `generate_kwargs`.

    Defaults are OpenAI's: temperature 1 without `top_k`, and stop strings outside of the text.
    """

    model: str | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="Name of the model or of an adapter."
    )
    stream: bool = Field(default=False, description="Send chunks as server-sent events.")
    stream_options: StreamOptions | None = Field(
        default=None,
        description="With `stream` only: `include_usage`, `continuous_usage_stats`.",
    )
    n: PositiveCount | None = Field(default=None, description="Choices, at temperature > 0.")
    max_tokens: Count | None = Field(default=None, description="Most new tokens.")
    temperature: float = Field(
        default=1.0, ge=0, le=MAX_SCALE, description="0 is greedy decoding; else from 1e-6."
    )
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT), INTEGER] | None = Field(
        default=0, description="Keep the k likeliest tokens; 0 and -1 keep all."
    )
    stop: Stop = Field(default=None, description="Texts that end a choice before them.")
    include_stop_str_in_output: bool = Field(
        default=False, description="True: the stop string stays in the text."
    )
    logit_bias: LogitBias | None = Field(
        default=None, description="Biases of logits by token id, -100 to 100."
    )
    user: str | None = Field(
        default=None, max_length=MAX_USER, description="No effect: users share one queue."
    )
    metadata: Metadata | None = Field(
        default=None, description="Returned with the answer and the job: up to 16 pairs."
    )
    service_tier: Literal["auto", "default", "flex", "priority"] | None = Field(
        default=None, description="`flex` is priority -5 of `/chat`, `priority` is 5."
    )

    # vLLM's extensions.
    min_tokens: Count | None = Field(default=None, description="Fewest new tokens.")
    ignore_eos: bool = Field(default=False, description="Continue after an end-of-text token.")
    return_tokens_as_token_ids: bool = Field(
        default=False, description="Write tokens of log-probabilities as `token_id:N`."
    )
    skip_special_tokens: Annotated[Any, refused("special tokens are no text", True)] = None
    spaces_between_special_tokens: Annotated[Any, refused("special tokens are no text", True)] = (
        None
    )
    add_special_tokens: bool | None = Field(
        default=None, description="Let the tokenizer add its special tokens."
    )
    use_beam_search: Annotated[Any, refused("set num_beams", False)] = None
    truncate_prompt_tokens: Annotated[Any, refused('set handle_long_generation to "hole"')] = None
    allowed_token_ids: NoText = None
    bad_words: Annotated[Any, refused("set bad_words_ids")] = None
    logits_processors: NoText = None
    prompt_embeds: NoText = None
    cache_salt: Annotated[Any, refused("prefixes are shared by all requests")] = None
    request_id: Annotated[Any, refused("the job has an id of its own; send x-request-id")] = None

    # Falconer's own.
    priority: Annotated[int, Field(ge=-10, le=10), INTEGER] | None = Field(
        default=None, description="Lower first, as in vLLM; `/chat` counts the other way."
    )
    deadline_s: float | None = Field(
        default=None, gt=0, le=JOB_TTL_S, description="The job expires after so many seconds."
    )
    ttl_s: Annotated[int, Field(ge=1), INTEGER] | None = Field(
        default=None, description="Seconds to keep the result."
    )
    reuse: Reuse = Field(
        default="never", description="Take the tokens of a job of the same request."
    )
    adapter: str | None = Field(
        default=None, min_length=1, max_length=MAX_ADAPTER_NAME, description="As in `/chat`."
    )
    handle_long_generation: Literal["hole"] | None = Field(
        default=None, description="Drop the start of a prompt that is too long."
    )
    clean_up_tokenization_spaces: bool = Field(
        default=False, description="Remove spaces before punctuation."
    )

    prompt_field: ClassVar[str]  # names the prompt in errors

    @property
    @abstractmethod
    def wants_logprobs(self) -> bool:
        """Return whether the answer has log-probabilities of its tokens."""

    @property
    def num_choices(self) -> int:
        """Return the choices of the answer for each prompt."""
        return self.n or self.num_return_sequences

    @property
    def tier(self) -> str:
        """Return the service tier that the answer names."""
        return self.service_tier if self.service_tier in ("flex", "priority") else "default"

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def includes_usage_in_chunks(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def has_length(self) -> bool:
        """Return whether the request limits the number of tokens."""
        return bool(LENGTHS & self.model_fields_set)

    def check(self) -> None:
        """Check rules between fields. Raises InvalidParameter."""
        if self.stream_options is not None and not self.stream:
            raise InvalidParameter("must not be given without stream", field="stream_options")
        if self.includes_usage_in_chunks and not self.includes_usage:
            raise InvalidParameter(
                "must not be given without include_usage",
                field="stream_options.continuous_usage_stats",
            )
        if self.priority is not None and self.service_tier is not None:
            raise InvalidParameter("must not be given together with service_tier", field="priority")
        if self.ignore_eos and "eos_token_id" in self.model_fields_set:
            raise InvalidParameter(
                "must not be given together with eos_token_id", field="ignore_eos"
            )
        self.check_structure()
        given: dict[str, str] = {}
        for name in self._given(KWARGS_NAMES):
            for other in (given.get(KWARGS_NAMES[name]), KWARGS_NAMES[name]):
                if other is not None and getattr(self, other) is not None and self._is_set(other):
                    reason = f"must not be given together with {other}"
                    raise InvalidParameter(reason, field=name)
            given[KWARGS_NAMES[name]] = name

    def check_line(self) -> None:
        """Check the request of a line of a batch. Raises InvalidParameter."""
        self.check()
        if self.stream:
            raise InvalidParameter("must be false in a batch", field="stream")
        if self.reuse != "never":
            raise InvalidParameter("must be never in a batch", field="reuse")

    def _is_set(self, name: str) -> bool:
        return name in self.model_fields_set

    def _given(self, names: dict[str, str]) -> Iterator[str]:
        """Yield the fields among `names` that the request sets to a value."""
        for name in names:
            if self._is_set(name) and getattr(self, name, None) is not None:
                yield name

    def job_fields(self) -> dict[str, Any]:
        """Return the fields of the `ChatRequest`, without the prompt. Raises InvalidParameter."""
        priority = TIER_PRIORITIES[self.service_tier or "auto"]
        fields: dict[str, Any] = {
            "model": self.model,
            "generate_kwargs": self._checked_kwargs(),
            "priority": priority if self.priority is None else -self.priority,
            "return_full_text": False,
        }
        return fields | {name: getattr(self, name) for name in JOB_FIELDS if self._is_set(name)}

    def kwargs(self) -> dict[str, Any]:
        """Return `generate_kwargs`."""
        names = [name for name in GenerateKwargs.model_fields if self._is_set(name)]
        kwargs = {
            "do_sample": self.temperature > 0,
            "top_k": 0,
            "include_stop_str_in_output": False,
            "logprobs_mode": "raw_logprobs",
        } | {name: getattr(self, name) for name in names}
        kwargs |= {KWARGS_NAMES[name]: getattr(self, name) for name in self._given(KWARGS_NAMES)}
        if kwargs["top_k"] == -1:
            kwargs["top_k"] = 0
        if self.ignore_eos:
            kwargs["eos_token_id"] = None
        if (structure := self.structure()) is not None:
            kwargs["structured_outputs"] = structure
        if self.logit_bias:
            biases = [([int(token_id)], bias) for token_id, bias in self.logit_bias.items()]
            kwargs["sequence_bias"] = [*(self.sequence_bias or ()), *biases]
        return kwargs

    def _checked_kwargs(self) -> GenerateKwargs:
        """Check the parameters together, now that all have their values."""
        try:
            return GenerateKwargs.model_validate(self.kwargs())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = self.field_name(".".join(["generate_kwargs", *map(str, first["loc"])]))
            raise InvalidParameter(first["msg"], field=field) from None

    def field_name(self, field: str | None) -> str | None:
        """Return the name below `/v1` of a field of `ChatRequest`, as this request gave it."""
        if field is None:
            return None
        if field in ("prompt", "prompt_token_ids", "messages"):
            return self.prompt_field
        name, _, rest = field.removeprefix("generate_kwargs.").partition(".")
        if name == "sequence_bias" and self.logit_bias:
            return "logit_bias"
        if name == "structured_outputs":
            return self.structure_field(rest)
        if name == "eos_token_id" and self.ignore_eos:
            return "ignore_eos"
        given = (own for own in self._given(KWARGS_NAMES) if KWARGS_NAMES[own] == name)
        return next(given, name) + (f".{rest}" if rest else "")

    @abstractmethod
    def jobs(self) -> list[ChatRequest]:
        """Return one request per prompt. Raises InvalidParameter."""

    @abstractmethod
    def for_answer(self) -> Self:
        """Return a copy without the texts that the answer does not need."""
