"""Messages between api and workers: frozen structs, encoded as msgpack, versioned, never pickled.

A new field has a default, and no field is removed. A job carries the oldest version that can run
it, so api and workers can be upgraded in any order. `VERSION` is the version that this code reads.
"""

from enum import StrEnum
from typing import Any

import msgspec

from shared.errors import UnreadableJob
from shared.model_source import MergedAdapter
from shared.origin import ModelRun, Origin, ReplayedRun, ReplayVerdict
from shared.results import ChatResult, PromptScores

VERSION = 4
ADAPTERS_SINCE = 2  # older workers ignore the adapter
PROMPTS_SINCE = 3  # older workers ignore `model`, and how the prompt is made
DERIVED_SINCE = 4  # older workers ignore `inherited_deltas` and the next two fields
BATCH_PRIORITY = -11  # of the jobs of batches: below all that a request may ask for


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


class ChatJob(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted request: exactly one of `prompt`, `prompt_token_ids` and `messages` is set.

    With `card_hash`, the api has checked the prompt against that model card, and `token_ids` and
    `max_new_tokens` are final. Without `card_hash`, no model was registered, and the worker checks.
    """

    version: int = 1
    id: str
    prompt: str | None = None
    prompt_token_ids: list[int] | None = None
    messages: tuple[Message, ...] | None = None
    model: str | None = None  # the model of the card, or one of its adapters
    prefix: str | None = None
    add_special_tokens: bool | None = None  # None: to a prompt, not to a conversation
    continue_final_message: bool = True  # if the assistant wrote it; else a new one begins
    prediction: str | None = None  # text to draft from
    prediction_token_ids: list[int] | None = None  # set together with `token_ids`
    fill_context: bool = False  # without a length, generate up to the end of the context
    handle_long_generation: str | None = None  # "hole", as in transformers and KAITO
    generate_kwargs: dict[str, Any]  # the fields of `GenerateKwargs` in the request, validated
    seed: int
    return_full_text: bool = True
    clean_up_tokenization_spaces: bool = False
    stream: bool = False  # keeps a token log
    card_hash: str | None = None
    token_ids: list[int] | None = None
    max_new_tokens: int | None = None
    deadline_s: float | None = None  # seconds from acceptance, by the clock of Redis
    ttl_s: int | None = None  # seconds for which the result is kept
    priority: int = 0  # a higher priority runs first, in the queue and in the engine
    adapter: str | None = None  # an adapter of the model card
    metadata: dict[str, str] | None = None  # of the client; shown with the job
    inherited_deltas: int = 0  # of an earlier job's token log, with which its own begins
    adapter_version: str | None = None  # of these deltas
    replay: ReplayedRun | None = None  # to compare the tokens with
    owner: str | None = None  # name of the API key that submitted it
    joined_to: str | None = None  # a job of the same request, whose tokens it takes if it can

    @property
    def gives_way(self) -> bool:
        """Return whether the job is of a batch, and leaves its rows to any other job."""
        return self.priority <= BATCH_PRIORITY

    @property
    def cost_rows(self) -> int:
        """Return the rows that the job takes in a batch: its sequences or beams."""
        kwargs = self.generate_kwargs
        return max(kwargs.get("num_return_sequences") or 1, kwargs.get("num_beams") or 1)

    @property
    def cost_tokens(self) -> int:
        """Return an upper bound of its KV cache, in tokens; 0 while lengths are unknown."""
        if self.token_ids is None or self.max_new_tokens is None:
            return 0
        return self.cost_rows * (len(self.token_ids) + self.max_new_tokens)


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a job has no result."""

    message: str
    status_code: int = 500  # of the response to a synchronous request
    field: str | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The batch sizes, in rows, of the engine steps that included the job."""

    mean_rows: float
    max_rows: int


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One token of a sequence. A job without a token log has one delta for each sequence."""

    sequence: int = 0
    text: str = ""
    token_ids: list[int]
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None
    finish_reason: str | None = None
    prompt: PromptScores | None = None  # with the first token of the first sequence


class TokenDeltas(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive deltas of a job."""

    job_id: str
    index: int  # of the first delta; counts from 0 over all attempts of the job
    deltas: list[Delta]

    @property
    def end(self) -> int:
        """Return the index of the delta that follows."""
        return self.index + len(self.deltas)

    def since(self, index: int) -> "TokenDeltas | None":
        """Return the deltas from `index` on; None if there is none, or a gap before the first."""
        if not self.index <= index < self.end:
            return None
        return msgspec.structs.replace(self, index=index, deltas=self.deltas[index - self.index :])


class Succeeded(msgspec.Struct, frozen=True, kw_only=True, tag="succeeded"):
    """Terminal event of a job that succeeded."""

    job_id: str
    attempt: int
    result: ChatResult
    batch: Batch
    queue_ms: float
    run_ms: float
    num_deltas: int | None = None  # in its token log; None without a log
    run: ModelRun | None = None  # None from workers that do not report it
    replay: ReplayVerdict | None = None  # of a job that repeats another one

    @property
    def status(self) -> JobStatus:
        return JobStatus.SUCCEEDED


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Terminal event of a job that failed, expired or was cancelled."""

    job_id: str
    attempt: int
    status: JobStatus
    error: JobError
    batch: Batch | None = None


Outcome = Succeeded | Failed
Event = TokenDeltas | Succeeded | Failed


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a job, as `GET /jobs/{id}` shows it. Times are Unix ms."""

    id: str
    status: JobStatus
    created_ms: int
    started_ms: int | None = None  # of the latest claim
    finished_ms: int | None = None
    attempts: int = 0
    worker: str | None = None
    position: int | None = None  # from 1, while the job is queued
    expected_start_s: float | None = None  # from now
    lacks_worker: bool = False
    retry_of: str | None = None  # the job that this one retries
    retried_as: str | None = None  # the job that retries this one
    metadata: dict[str, str] | None = None  # of the client
    origin: Origin | None = None
    model: str | None = None  # of its queue; None for the first model of the service
    owner: str | None = None  # name of the API key that submitted it
    outcome: Outcome | None = None  # a listing leaves out results

    @property
    def result(self) -> ChatResult | None:
        return self.outcome.result if isinstance(self.outcome, Succeeded) else None

    @property
    def replay(self) -> ReplayVerdict | None:
        return self.outcome.replay if isinstance(self.outcome, Succeeded) else None

    @property
    def error(self) -> JobError | None:
        return self.outcome.error if isinstance(self.outcome, Failed) else None

    @property
    def batch(self) -> Batch | None:
        return None if self.outcome is None else self.outcome.batch


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a model that the api needs to check requests.

    Card and tokenizer.json are hashed together. An unset field is not packed and changes no hash.
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
    max_num_beams: int = 1  # absent in the cards of workers without beam search
    adapters: tuple[str, ...] = ()  # that a request may name
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
    running: int = 0  # rows
    waiting: int = 0  # rows
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    tokens_per_s: float = 0.0
    jobs_per_s: float = 0.0
    loads_adapters: bool = False  # at run time
    adapter_generation: int = 0  # of the AdapterSet that it serves
    adapter_errors: dict[str, str] = {}  # by adapter of that set: why it is not served


def encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def encode_events(events: list[Outcome]) -> bytes:
    """Encode terminal events for one entry of a reply stream."""
    return msgspec.msgpack.encode(events)


def decode_events(data: bytes) -> list[Outcome]:
    return msgspec.msgpack.decode(data, type=list[Outcome])


def decode_delta(data: bytes) -> Delta:
    return msgspec.msgpack.decode(data, type=Delta)


def decode_token_deltas(job_id: str, data: bytes) -> TokenDeltas:
    """Decode a field of `append_tokens.lua`: the first index, a space, an array of deltas."""
    index, _, packed = data.partition(b" ")
    deltas = msgspec.msgpack.decode(packed, type=list[Delta])
    return TokenDeltas(job_id=job_id, index=int(index), deltas=deltas)


def decode_metadata(data: bytes) -> dict[str, str]:
    return msgspec.msgpack.decode(data, type=dict[str, str])


def decode_job(data: bytes) -> ChatJob:
    """Decode a job. Raises UnreadableJob."""
    try:
        job = msgspec.msgpack.decode(data, type=ChatJob)
    except msgspec.DecodeError as error:
        raise UnreadableJob(f"the worker cannot read this job: {error}") from None
    if job.version > VERSION:
        raise UnreadableJob(
            f"the job has protocol version {job.version}; its worker reads up to {VERSION}"
        )
    return job
