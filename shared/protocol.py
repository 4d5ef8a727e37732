"""What travels between api and workers: frozen structs in msgpack, versioned, never pickle.

Fields are only ever added, with a default. A job tells the oldest version whose code can run it, so
that api and workers may be upgraded in any order; `VERSION` is what this code can read.
"""

from enum import StrEnum
from typing import Any

import msgspec

from shared.errors import FalconerError

VERSION = 2
ADAPTERS_SINCE = 2  # older code would answer with the model itself


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str
    name: str | None = None  # for chat templates that show it


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller sent; exactly one of `text` and `messages` is set."""

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    prefix: str | None = None
    handle_long_generation: str | None = None


class ChatJob(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted request.

    `generate_kwargs` holds the fields of `shared.request.parameters.GenerateKwargs` that the caller gave,
    validated. With `card_hash`, prompt and lengths were already checked against that model card,
    and `token_ids` and `max_new_tokens` are final; without, no worker had registered yet and the
    worker checks.
    """

    version: int = 1
    id: str
    prompt: Prompt
    generate_kwargs: dict[str, Any]
    seed: int
    return_full_text: bool = True
    clean_up_tokenization_spaces: bool = False
    stream: bool = False  # keeps a token log
    card_hash: str | None = None
    token_ids: list[int] | None = None
    max_new_tokens: int | None = None
    deadline_s: float | None = None  # from its acceptance on, by the clock of Redis
    ttl_s: int | None = None  # how long the result is kept
    priority: int = 0  # higher goes first, in the queue and in the engine
    adapter: str | None = None  # one of the model card's

    @property
    def cost_rows(self) -> int:
        """Rows of a batch that the job takes: its sequences or beams."""
        kwargs = self.generate_kwargs
        return max(kwargs.get("num_return_sequences") or 1, kwargs.get("num_beams") or 1)

    @property
    def cost_tokens(self) -> int:
        """Upper bound of the KV cache it needs, in tokens; 0 where lengths are not known yet."""
        if self.token_ids is None or self.max_new_tokens is None:
            return 0
        return self.cost_rows * (len(self.token_ids) + self.max_new_tokens)


class SequenceResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One generated sequence; `text` is the continuation alone."""

    text: str
    finish_reason: str  # "stop": eos or stop string; "length": max_new_tokens
    token_count: int
    score: float | None = None
    token_ids: list[int] | None = None
    token_logprobs: list[float] | None = None
    top_logprobs: list[dict[int, float]] | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResult(msgspec.Struct, frozen=True, kw_only=True, rename={"result": "Result"}):
    """The 200 body of `/chat`."""

    result: str
    id: str
    sequences: list[SequenceResult]
    usage: Usage
    seed: int


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job failed; `status_code` is what a synchronous caller gets."""

    message: str
    status_code: int = 500
    field: str | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Rows in the engine steps a job took part in."""

    mean_rows: float
    max_rows: int


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One token of one sequence, as the job's log keeps it: with all that its result needs of it.

    A job that keeps no log is told afterwards with one delta for each whole sequence.
    """

    sequence: int = 0
    text: str = ""
    token_ids: list[int]
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None
    finish_reason: str | None = None


class TokenDeltas(msgspec.Struct, frozen=True, kw_only=True):
    """New deltas of a job; `index` counts from 0 in its log, whatever the attempt.

    `first_event_id` tells which of its lives they belong to, as `JobRecord` does.
    """

    job_id: str
    first_event_id: int = 0
    index: int
    deltas: list[Delta]


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    job_id: str
    attempt: int
    result: ChatResult
    batch: Batch
    queue_ms: float
    run_ms: float
    num_deltas: int | None = None  # in its log; None where it keeps none

    @property
    def status(self) -> JobStatus:
        return JobStatus.SUCCEEDED


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Any other end: failed, cancelled or expired."""

    job_id: str
    attempt: int
    status: JobStatus
    error: JobError
    batch: Batch | None = None


Outcome = Finished | Failed
Event = TokenDeltas | Finished | Failed


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /jobs/{id}` shows. Times are Unix ms; `position` counts from 1 while queued.

    `queued_ms`: when it was accepted again, by a retry. `expected_start_s` counts from now.
    """

    id: str
    status: JobStatus
    created_ms: int
    queued_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    attempts: int = 0
    worker: str | None = None
    position: int | None = None
    expected_start_s: float | None = None
    lacks_worker: bool = False
    batch: Batch | None = None
    result: ChatResult | None = None
    error: JobError | None = None
    num_deltas: int | None = None  # of one that succeeded
    first_event_id: int = 0  # of its latest life: a retry counts on after the end of the one before


class MergedAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that is part of a model's weights; `digest` is that of its files."""

    name: str
    strength: float
    digest: str


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What the api must know of a model to check requests; stored beside its tokenizer.json.

    Both are hashed as they are packed: fields that not every model has are absent where it has
    none, so that the others keep their hash while workers are upgraded.
    """

    name: str
    context_length: int
    vocab_size: int
    eos_token_ids: list[int]
    pad_token_id: int | None
    bos_token_id: int | None
    chat_template: str | None
    max_rows: int  # most sequences one request may ask for
    max_kv_tokens: int  # most KV tokens one request may need
    max_num_beams: int = 1  # what workers that knew no beam search left out
    adapters: tuple[str, ...] = ()  # those that a request may name
    merged_adapters: tuple[MergedAdapter, ...] | msgspec.UnsetType = msgspec.UNSET
    template_tokens: dict[str, str] | msgspec.UnsetType = msgspec.UNSET  # by name, as `eos_token`
    source: str | msgspec.UnsetType = msgspec.UNSET  # see `shared.model_source`


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One live worker, as `GET /workers` lists it."""

    id: str
    model: str
    card_hash: str
    device: str
    version: str
    started_ms: int
    running: int = 0
    waiting: int = 0
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    tokens_per_s: float = 0.0
    jobs_per_s: float = 0.0


def encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def encode_events(events: list[Outcome]) -> bytes:
    """One entry of a reply stream."""
    return msgspec.msgpack.encode(events)


def decode_events(data: bytes) -> list[Outcome]:
    return msgspec.msgpack.decode(data, type=list[Outcome])


def decode_delta(data: bytes) -> Delta:
    return msgspec.msgpack.decode(data, type=Delta)


def decode_stretch(name: bytes, data: bytes) -> TokenDeltas:
    """What `append_tokens.lua` makes of new deltas: job and life; first index, a space, an array."""
    job_id, _, first_event_id = name.partition(b" ")
    index, _, deltas = data.partition(b" ")
    return TokenDeltas(
        job_id=job_id.decode(),
        first_event_id=int(first_event_id or 0),
        index=int(index),
        deltas=msgspec.msgpack.decode(deltas, type=list[Delta]),
    )


class UnreadableJob(FalconerError):
    """A job of a version that this one cannot know, or no job at all."""


def decode_job(data: bytes) -> ChatJob:
    """Raises UnreadableJob."""
    try:
        job = msgspec.msgpack.decode(data, type=ChatJob)
    except msgspec.DecodeError as error:
        raise UnreadableJob(f"the worker cannot read this job: {error}") from None
    if job.version > VERSION:
        raise UnreadableJob(
            f"the job has protocol version {job.version}; its worker reads up to {VERSION}"
        )
    return job
