"""Every Redis key, its fields and its TTL.

The keys of the queue, and of a job, its attempt, its lease and its result, are arq's, so that
arq's tools can read them. All others start with the name of the service: several services can share
a Redis. A service has a queue for each of its models; the jobs, files and batches of all of them
have the same keys, so that each is found by its id alone.
"""

from dataclasses import dataclass

from arq.constants import (
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

JOB_TTL_S = 24 * 3600  # the latest deadline, and the deadline of a job without one
UNFINISHED_JOB_TTL_S = JOB_TTL_S + 3600  # of the keys of a job that has not ended
RESULT_TTL_S = 3600  # default of `ttl_s`
MIN_RECORD_TTL_S = 900  # of a record after the job's end: a frozen worker may wake up
REPLIES_TTL_S = 600  # of an api replica's stream after its last event
REPLIES_MAX_ENTRIES = 10_000
WORKER_TTL_S = 10  # a worker without a heartbeat for this long is not live
LOADING_TTL_S = 6 * 3600  # longer than any model loads; 80 GB from the hub take a while
MODEL_CARD_TTL_S = 30 * 24 * 3600  # refreshed while a worker serves the model
DEAD_LETTERS_MAX = 1000  # ids of the latest dead letters
UNKNOWN_RETRY_AFTER_S = 10  # Retry-After without a claim rate: no worker, or no backlog yet
TRAIL_MAX_BYTES = 4096  # of the trail of a job: the latest 60 lines or more
MAX_QUEUE_NAME = 128  # characters of the service's name, which most keys begin with
BATCH_LANE_MAX = 64  # jobs of batches that wait: a claim takes from here
FILE_TTL_S = 7 * 24 * 3600  # of a file without `expires_after`, and of an ended batch
MAX_FILE_TTL_S = 30 * 24 * 3600
BATCH_MAX_S = 30 * 24 * 3600  # the longest completion window
ACTIVE_BATCHES_MAX = 1000  # batches that have not ended; further batches are refused
OWNER_INDEX_TTL_S = 32 * 24 * 3600  # longer than any record
OWNER_BATCHES_TTL_S = BATCH_MAX_S + FILE_TTL_S  # of files too: of an input, with its batch
LISTED_MAX = 10_000  # finished jobs of each status in a listing: the latest

# Score of a leased job: this, plus the end of its lease. Waiting jobs have lower scores: Unix ms up
# to the year 2109.
LEASE_SCORE_BASE = 2**42
PRIORITY_WINDOW_MS = 30_000  # head start of one priority step; bounded, so that no job starves

# Fields of the hash `Keys.record`; `job_state.lua` and docs/reference/redis-keys.md describe them.
RECORD_FIELDS = (
    "payload",
    "status",
    "created_ms",
    "started_ms",
    "finished_ms",
    "deadline_ms",
    "ttl_ms",
    "cost_rows",
    "cost_tokens",
    "queue_score",
    "lane",
    "subscribers",
    "idempotency",
    "worker",
    "fencing_token",
    "attempts",
    "cancel_result",
    "cancel_events",
    "trail",
    "retry_of",
    "retried_as",
    "metadata",
    "origin",
    "model",
    "owner",
)

# Fields of the hash `Keys.batch`; `batch_state.lua` and docs/reference/redis-keys.md describe them.
BATCH_FIELDS = (
    "spec",
    "status",
    "fencing_token",
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
    "final",
    "model",
    "errors",
    "total",
    "completed",
    "failed",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "output_bytes",
    "error_bytes",
    "next_line",
    "next_offset",
)

# Fields of the hash `Keys.backlog`, described at the same places, in `backlog.lua`.
BACKLOG_FIELDS = (
    "tokens",
    "full_since_ms",
    "rate_ms",
    "rate_claims",
    "rate_jobs",
    "rate_tokens",
    "rate_measured_ms",
    "retry_slot_ms",
    "last_claim_ms",
    "outage_since_ms",
    "grace_until_ms",
)


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names of one model's queue, and of what it shares with other models of the service."""

    service: str = "falconer:queue"
    model: str = ""  # of a service with several models: any but the first

    @property
    def queue(self) -> str:
        """Return the key of arq's sorted set: the waiting and the running jobs of the model."""
        return f"{self.service}:model:{self.model}" if self.model else self.service

    def arq_job(self, job_id: str) -> str:
        return job_key_prefix + job_id

    def arq_retry(self, job_id: str) -> str:
        """Return the key of a flag: the run of the latest lease has started.

        arq counts tries here; Falconer writes '1'.
        """
        return retry_key_prefix + job_id

    def arq_in_progress(self, job_id: str) -> str:
        """Return the key of the owner of the latest lease: worker id, a colon, fencing token."""
        return in_progress_key_prefix + job_id

    def arq_result(self, job_id: str) -> str:
        return result_key_prefix + job_id

    @property
    def batch_lane(self) -> str:
        """Return the key of a sorted set: jobs of batches that wait, by time."""
        return f"{self.queue}:batch-lane"

    @property
    def batches(self) -> str:
        """Return the key of a sorted set: ids of batches, which order by creation."""
        return f"{self.service}:batches"

    @property
    def active_batches(self) -> str:
        """Return the key of a sorted set: batches that have not ended, by the end of their lease.

        Times are Unix ms; 0 without a lease.
        """
        return f"{self.service}:active-batches"

    def batches_of(self, owner: str) -> str:
        return f"{self.service}:batches-of:{owner}"

    def batch(self, batch_id: str) -> str:
        """Return the key of a hash: a batch and its progress, see `batch_state.lua`."""
        return f"{self.service}:batch:{batch_id}"

    def batch_lines(self, batch_id: str) -> str:
        """Return the key of a bitmap: the lines of a batch that have a result."""
        return f"{self.service}:batch-lines:{batch_id}"

    @property
    def files(self) -> str:
        """Return the key of a sorted set: ids of files, which order by creation."""
        return f"{self.service}:files"

    def files_of(self, owner: str) -> str:
        return f"{self.service}:files-of:{owner}"

    def file(self, file_id: str) -> str:
        """Return the key of a StoredFile."""
        return f"{self.service}:file:{file_id}"

    def file_data(self, file_id: str) -> str:
        """Return the key of a list: the parts of a file, or the results of a running batch."""
        return f"{self.service}:file-data:{file_id}"

    def record(self, job_id: str) -> str:
        """Return the key of a hash: the job and its state, in the fields of `job_state.lua`."""
        return f"{self.service}:record:{job_id}"

    def token_log(self, job_id: str) -> str:
        """Return the key of a list: the deltas of a streamed job, in order."""
        return f"{self.service}:token-log:{job_id}"

    def reusable(self, digest: str) -> str:
        """Return the key of the id of the latest job of a request that shares its tokens."""
        return f"{self.service}:reusable:{digest}"

    def retry_payload(self, job_id: str) -> str:
        """Return the key of the payload of an ended job, for a retry or for a job made from it."""
        return f"{self.service}:retry-payload:{job_id}"

    def response(self, job_id: str) -> str:
        """Return the key of the request of a response, as `/v1/responses` stores it."""
        return f"{self.service}:response:{job_id}"

    def idempotency(self, digest: str) -> str:
        """Return the key of the id of the job that an Idempotency-Key created.

        The digest of the request's body follows the id, after a space.
        """
        return f"{self.service}:idempotency:{digest}"

    @property
    def wake(self) -> str:
        """Return the key of the list that an idle worker blocks on; an element: a job is ready."""
        return f"{self.queue}:wake"

    def control(self, worker_id: str) -> str:
        """Return the key of a list: the ids of jobs that a worker must cancel."""
        return f"{self.service}:control:{worker_id}"

    def replies(self, replica_id: str) -> str:
        """Return the key of the stream of events for one api replica."""
        return f"{self.service}:replies:{replica_id}"

    @property
    def workers(self) -> str:
        """Return the key of a sorted set: worker id → Redis time of its last heartbeat in ms."""
        return f"{self.queue}:workers"

    def worker(self, worker_id: str) -> str:
        """Return the key of the WorkerInfo of the last heartbeat."""
        return f"{self.service}:worker:{worker_id}"

    @property
    def loading_workers(self) -> str:
        """Return the key of a sorted set: ids of workers that load, all of score 0."""
        return f"{self.queue}:loading-workers"

    def loading_worker(self, worker_id: str) -> str:
        """Return the key of the latest LoadingWorker."""
        return f"{self.service}:loading-worker:{worker_id}"

    @property
    def current_model(self) -> str:
        """Return the key of the digest of the model card that requests are checked against."""
        return f"{self.queue}:current-model"

    @property
    def loading(self) -> str:
        """Return the key of the digest of the checkpoint that a worker loads.

        The key exists until the worker publishes its card.
        """
        return f"{self.queue}:loading"

    def model_card(self, card_hash: str) -> str:
        return f"{self.service}:model-card:{card_hash}"

    def model_created(self, card_hash: str) -> str:
        """Return the key of the Unix ms at which a worker first registered the card."""
        return f"{self.service}:model-created:{card_hash}"

    @property
    def adapters(self) -> str:
        """Return the key of the AdapterSet: the adapters that clients loaded at run time."""
        return f"{self.queue}:adapters"

    @property
    def job_index(self) -> str:
        """Return the key of a sorted set: all jobs by status and creation."""
        return f"{self.service}:job-index"

    def jobs_of(self, owner: str) -> str:
        return f"{self.service}:jobs-of:{owner}"

    @property
    def alone_worker(self) -> str:
        """Return the key of the id of the worker that drains for a job that runs alone."""
        return f"{self.queue}:alone-worker"

    @property
    def backlog(self) -> str:
        """Return the key of a hash: cost and claim rate of the waiting jobs, see `backlog.lua`."""
        return f"{self.queue}:backlog"

    @property
    def totals(self) -> str:
        """Return the key of a hash: number of accepted jobs (queued), and ended jobs by status."""
        return f"{self.queue}:totals"

    @property
    def dead_letters(self) -> str:
        """Return the key of a list: ids of the latest dead letters, the newest first."""
        return f"{self.service}:dead-letters"
