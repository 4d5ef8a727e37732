"""The bodies that come in and go out; ranges of `generate_kwargs` are `shared/request/parameters.py`'s."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from api.chat_messages import ChatMessage
from api.examples import REQUESTS
from shared.protocol import Batch, ChatResult, JobError, JobRecord, JobStatus, Prompt
from shared.queue.keys import JOB_TTL_S
from shared.request.base_model import OptionalFieldsModel
from shared.request.parameter_types import WHOLE
from shared.request.parameters import GenerateKwargs

T = TypeVar("T")

MAX_MESSAGES = 1024
MAX_ADAPTER_NAME = 255  # characters; it is the name of a folder


class ChatRequest(OptionalFieldsModel):
    """One request for text. `null` stands for the default, everywhere but in `generate_kwargs`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [example["value"] for example in REQUESTS.values()]}
    )

    prompt: str | None = Field(default=None, description="Text to continue.")
    messages: list[ChatMessage] | None = Field(
        default=None,
        max_length=MAX_MESSAGES,
        fail_fast=True,
        description="A conversation to answer, instead of a prompt. A last message of the "
        "assistant is continued.",
    )
    prefix: str | None = Field(
        default=None, description="Goes before the prompt and counts as part of it; never echoed."
    )
    handle_long_generation: Literal["hole"] | None = Field(
        default=None, description='"hole" drops the start of a prompt that is too long.'
    )
    return_full_text: bool = Field(
        default=True, description="Put the prompt in front of each text."
    )
    clean_up_tokenization_spaces: bool = Field(
        default=False, description="Remove spaces before punctuation in the continuation."
    )
    generate_kwargs: GenerateKwargs = Field(default_factory=GenerateKwargs)
    adapter: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ADAPTER_NAME,
        description="Name of a LoRA adapter that the workers serve; the model itself without one.",
    )
    stream: bool = Field(default=False, description="Answer with server-sent events.")
    priority: Annotated[int, Field(ge=-10, le=10), WHOLE] = Field(
        default=0, description="Higher goes first, within a window."
    )
    deadline_s: float | None = Field(
        default=None,
        gt=0,
        le=JOB_TTL_S,
        description="Drop the job if it is not done in this time; a day where it is not given.",
    )
    ttl_s: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        default=None,
        description="How long the result is kept: an hour where it is not given, and at most a day "
        "unless the server allows more.",
    )

    @field_validator("messages")
    @classmethod
    def _instead_of_a_prompt(
        cls, messages: list[ChatMessage] | None, info: ValidationInfo
    ) -> list[ChatMessage] | None:
        """An empty list beside a prompt is no messages, an empty prompt beside messages none."""
        if messages and info.data.get("prompt"):
            raise PydanticCustomError("rule", "give either prompt or messages, not both")
        return messages or None

    def to_prompt(self) -> Prompt:
        messages = None
        if self.messages is not None:
            messages = tuple(message.to_message() for message in self.messages)
        return Prompt(
            text=self.prompt if messages is None else None,
            messages=messages,
            prefix=self.prefix,
            handle_long_generation=self.handle_long_generation,
        )


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A job as a listing shows it; times in UTC. While it waits, `position` counts from 1.

    `expected_start_s` counts from now, at the pace of the last seconds, and is absent while there
    is none to go by; `waiting_for` is there while no worker is. `retry_of` and `retried_as` are the
    ids of the job that this one retries and of its own retry.
    """

    id: str
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue_ms: int | None
    run_ms: int | None
    attempts: int
    worker: str | None
    position: int | msgspec.UnsetType = msgspec.UNSET
    expected_start_s: float | msgspec.UnsetType = msgspec.UNSET
    waiting_for: Literal["worker"] | msgspec.UnsetType = msgspec.UNSET
    retry_of: str | msgspec.UnsetType = msgspec.UNSET
    retried_as: str | msgspec.UnsetType = msgspec.UNSET
    error: JobError | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        return cls(**cls._fields_of(record))

    @classmethod
    def _fields_of(cls, record: JobRecord) -> dict[str, Any]:
        return {
            "id": record.id,
            "status": record.status,
            "created_at": utc(record.created_ms),
            "started_at": None if record.started_ms is None else utc(record.started_ms),
            "finished_at": None if record.finished_ms is None else utc(record.finished_ms),
            "queue_ms": elapsed_ms(record.created_ms, record.started_ms),
            "run_ms": elapsed_ms(record.started_ms, record.finished_ms),
            "attempts": record.attempts,
            "worker": record.worker,
            "position": or_unset(record.position),
            "expected_start_s": or_unset(record.expected_start_s),
            "waiting_for": "worker" if record.lacks_worker else msgspec.UNSET,
            "retry_of": or_unset(record.retry_of),
            "retried_as": or_unset(record.retried_as),
            "error": or_unset(record.error),
        }


class JobView(JobSummary, frozen=True, kw_only=True):
    """A job with all that is known of it."""

    batch: Batch | None
    result: ChatResult | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def _fields_of(cls, record: JobRecord) -> dict[str, Any]:
        fields = super()._fields_of(record)
        return fields | {"batch": record.batch, "result": or_unset(record.result)}


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """One page; the next one begins at `cursor`, which is null at the end and only there."""

    jobs: list[JobSummary]
    cursor: str | None


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """How many waiting jobs were cancelled."""

    cancelled: int


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """Every refusal and failure; `id` where a job exists."""

    detail: str
    id: str | None = None


def or_unset(value: T | None) -> T | msgspec.UnsetType:
    """What is absent from the body where there is none."""
    return msgspec.UNSET if value is None else value


def utc(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)


def elapsed_ms(start_ms: int | None, end_ms: int | None) -> int | None:
    return None if start_ms is None or end_ms is None else end_ms - start_ms
