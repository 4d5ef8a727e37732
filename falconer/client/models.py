"""What the service returns: jobs, pages of jobs, and the deltas of a stream."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec

from shared.origin import ReplayVerdict
from shared.protocol import Batch, JobError, JobStatus
from shared.results import ChatResult

# A text to continue, or the messages of a conversation.
Prompt = str | Sequence[Mapping[str, Any]]


class RequestFields(TypedDict, total=False):
    """The fields of a request except its prompt; `docs/reference/http.md` describes them."""

    prompt_token_ids: Sequence[int] | None
    model: str | None
    prefix: str | None
    handle_long_generation: Literal["hole"] | None
    add_special_tokens: bool | None
    continue_final_message: bool | None
    fill_context: bool | None
    prediction: str | None
    return_full_text: bool | None
    clean_up_tokenization_spaces: bool | None
    generate_kwargs: Mapping[str, Any] | None
    adapter: str | None
    reuse: Literal["never", "running", "finished"] | None
    priority: int | None
    deadline_s: float | None
    ttl_s: int | None
    metadata: Mapping[str, str] | None


class JobInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as the service described it; a list omits `batch` and `result`."""

    id: str
    status: JobStatus
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    queue_ms: int | None = None
    run_ms: int | None = None
    attempts: int = 0
    worker: str | None = None
    model: str | None = None  # of a service with several models
    position: int | None = None
    expected_start_s: float | None = None
    waiting_for: str | None = None
    retry_of: str | None = None
    retried_as: str | None = None
    origin: Mapping[str, str] | None = None  # `kind` and `job_id`, if made from another job
    owner: str | None = None  # name of the API key that submitted it
    metadata: Mapping[str, str] | None = None
    error: JobError | None = None
    batch: Batch | None = None
    result: ChatResult | None = None
    replay: ReplayVerdict | None = None  # of a replay that succeeded


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    jobs: list[JobInfo]
    cursor: str | None = None  # of the next page


class TextDelta(msgspec.Struct, frozen=True, kw_only=True):
    """New text of one sequence; `index` counts the deltas of the job from 0."""

    index: int
    sequence: int
    text: str
    token_ids: list[int] = []


class JobHandle:
    """A job by its id. `info` is its state when the service last described it."""

    def __init__(self, info: JobInfo) -> None:
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def status(self) -> JobStatus:
        return self.info.status
