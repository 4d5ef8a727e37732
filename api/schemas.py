"""Bodies of requests and responses; `parameters.py` has the ranges of `generate_kwargs`."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from pydantic import ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from api.chat_messages import ChatMessage
from api.examples import REQUESTS
from shared.origin import Origin, ReplayVerdict
from shared.protocol import Batch, JobError, JobRecord, JobStatus
from shared.queue.keys import JOB_TTL_S
from shared.queue.listing import TrailEntry
from shared.request.base_model import OptionalFieldsModel
from shared.request.parameter_types import INTEGER, Count, PositiveCount, PromptTokenIds
from shared.request.parameters import GenerateKwargs
from shared.results import ChatResult

T = TypeVar("T")

MAX_MESSAGES = 1024
MAX_METADATA = 16  # pairs
MAX_METADATA_KEY = 64  # characters
MAX_METADATA_VALUE = 512
MAX_MODEL_NAME = 1024  # characters; may be the path of a folder
MAX_ADAPTER_NAME = 255  # characters; the name of a folder

MetadataKey = Annotated[str, Field(max_length=MAX_METADATA_KEY)]
MetadataValue = Annotated[str, Field(max_length=MAX_METADATA_VALUE)]
# Of which jobs a request may take the tokens, instead of generating them.
Reuse = Literal["never", "running", "finished"]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA)]


class ChatRequest(OptionalFieldsModel):
    """One request for text. `null` means the default, except in `generate_kwargs`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [example["value"] for example in REQUESTS.values()]}
    )

    prompt: str | None = Field(default=None, description="Text to continue.")
    prompt_token_ids: PromptTokenIds | None = Field(
        default=None, description="Token ids to continue, instead of a text."
    )
    messages: list[ChatMessage] | None = Field(
        default=None,
        max_length=MAX_MESSAGES,
        fail_fast=True,
        description="A conversation. The model continues a last message of the assistant.",
    )
    model: str | None = Field(
        default=None,
        max_length=MAX_MODEL_NAME,
        description="Name of the served model, or of a LoRA adapter. Others are a 404.",
    )
    prefix: str | None = Field(
        default=None, description="Goes before the prompt; not in the result."
    )
    handle_long_generation: Literal["hole"] | None = Field(
        default=None,
        description="Drop the start of a prompt that is too long; named as in transformers.",
    )
    add_special_tokens: bool | None = Field(
        default=None,
        description="Let the tokenizer add its special tokens. Default: to prompts, not messages.",
    )
    continue_final_message: bool = Field(
        default=True, description="False: answer a last message of the assistant with a new one."
    )
    fill_context: bool = Field(
        default=False, description="Without a length, generate up to the end of the context."
    )
    prediction: str | None = Field(
        default=None, description="Expected text, to draft from; changes no result."
    )
    return_full_text: bool = Field(default=True, description="Put the prompt before each text.")
    clean_up_tokenization_spaces: bool = Field(
        default=False, description="Remove spaces before punctuation."
    )
    generate_kwargs: GenerateKwargs = Field(default_factory=GenerateKwargs)
    adapter: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ADAPTER_NAME,
        description="Name of a served LoRA adapter.",
    )
    stream: bool = Field(default=False, description="Respond with server-sent events.")
    reuse: Reuse = Field(
        default="never",
        description="Take the tokens of a job of the same request that runs, or also finished.",
    )
    priority: Annotated[int, Field(ge=-10, le=10), INTEGER] = Field(
        default=0, description="Higher first; each step counts as 30 s of waiting."
    )
    deadline_s: float | None = Field(
        default=None,
        gt=0,
        le=JOB_TTL_S,
        description="The job expires after so many seconds. Default: a day.",
    )
    ttl_s: Annotated[int, Field(ge=1), INTEGER] | None = Field(
        default=None,
        description="Seconds to keep the result, at most --max-ttl-s. Default: an hour.",
    )
    metadata: Metadata | None = Field(
        default=None, description="Up to 16 pairs of text, shown with the job."
    )

    @field_validator("messages")
    @classmethod
    def _replace_a_prompt(
        cls, messages: list[ChatMessage] | None, info: ValidationInfo
    ) -> list[ChatMessage] | None:
        """Ignore empty messages with a prompt, and an empty prompt with messages."""
        if messages and info.data.get("prompt"):
            raise PydanticCustomError("rule", "give either prompt or messages, not both")
        return messages or None


class ContinueRequest(OptionalFieldsModel):
    """How far to continue a job."""

    max_new_tokens: PositiveCount = Field(description="Most tokens to add to those of the job.")


class ForkRequest(OptionalFieldsModel):
    """Another ending of a job."""

    at: Count = Field(description="Number of the job's tokens to keep.")
    generate_kwargs: GenerateKwargs = Field(
        default_factory=GenerateKwargs,
        description="Parameters to change; without `seed`, the seed is a new one.",
    )


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A job in a listing; times are in UTC.

    A queued job has a `position`, from 1, and `expected_start_s`, seconds from now, if the claim
    rate is known. `waiting_for` is present while no worker is live. `retry_of` is the job that
    this one retries, `retried_as` the job that retries this one.
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
    model: str | msgspec.UnsetType = msgspec.UNSET  # of a service with several models
    position: int | msgspec.UnsetType = msgspec.UNSET
    expected_start_s: float | msgspec.UnsetType = msgspec.UNSET
    waiting_for: Literal["worker"] | msgspec.UnsetType = msgspec.UNSET
    retry_of: str | msgspec.UnsetType = msgspec.UNSET
    retried_as: str | msgspec.UnsetType = msgspec.UNSET
    origin: Origin | msgspec.UnsetType = msgspec.UNSET
    owner: str | msgspec.UnsetType = msgspec.UNSET  # name of the API key
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
            "model": or_unset(record.model),
            "position": or_unset(record.position),
            "expected_start_s": or_unset(record.expected_start_s),
            "waiting_for": "worker" if record.lacks_worker else msgspec.UNSET,
            "retry_of": or_unset(record.retry_of),
            "retried_as": or_unset(record.retried_as),
            "origin": or_unset(record.origin),
            "owner": or_unset(record.owner),
            "error": or_unset(record.error),
        }


class JobView(JobSummary, frozen=True, kw_only=True):
    """A job with its result."""

    batch: Batch | None
    metadata: dict[str, str] | msgspec.UnsetType = msgspec.UNSET  # of the request
    result: ChatResult | msgspec.UnsetType = msgspec.UNSET
    replay: ReplayVerdict | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def _fields_of(cls, record: JobRecord) -> dict[str, Any]:
        fields = super()._fields_of(record)
        return fields | {
            "replay": or_unset(record.replay),
            "batch": record.batch,
            "metadata": or_unset(record.metadata),
            "result": or_unset(record.result),
        }


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a listing."""

    jobs: list[JobSummary]
    cursor: str | None  # of the next page; null on the last page


class TrailEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a job."""

    at: datetime
    event: str
    attempts: int
    worker: str | msgspec.UnsetType = msgspec.UNSET
    replicas: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET  # of the terminal event

    @classmethod
    def of(cls, entry: TrailEntry) -> Self:
        return cls(
            at=utc(entry.at_ms),
            event=entry.event,
            attempts=entry.attempts,
            worker=or_unset(entry.worker),
            replicas=entry.replicas or msgspec.UNSET,
        )


class Trail(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a job, in order."""

    id: str
    events: list[TrailEvent]


class Purged(msgspec.Struct, frozen=True, kw_only=True):
    """The number of queued jobs that were cancelled."""

    cancelled: int


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The error response that a request would get."""

    status_code: int
    detail: str
    retry_after_s: int


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a request that is sent now.

    Times are seconds from now, if the claim rate is known. Token counts are known once a worker has
    registered its model.
    """

    accepted: bool
    prompt_tokens: int | msgspec.UnsetType = msgspec.UNSET
    max_new_tokens: int | msgspec.UnsetType = msgspec.UNSET  # of each sequence
    kv_tokens: int | msgspec.UnsetType = msgspec.UNSET  # of all sequences, the prompt in each
    position: int
    expected_start_s: float | msgspec.UnsetType = msgspec.UNSET
    expected_end_s: float | msgspec.UnsetType = msgspec.UNSET
    waiting_for: Literal["worker"] | msgspec.UnsetType = msgspec.UNSET
    error: Refusal | msgspec.UnsetType = msgspec.UNSET


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an error response."""

    detail: str
    id: str | None = None  # of the job, if one exists


def or_unset(value: T | None) -> T | msgspec.UnsetType:
    """Return UNSET for None: the field is then absent from the body."""
    return msgspec.UNSET if value is None else value


def utc(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)


def elapsed_ms(start_ms: int | None, end_ms: int | None) -> int | None:
    return None if start_ms is None or end_ms is None else end_ms - start_ms
