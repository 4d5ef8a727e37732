"""Every Redis key and TTL, built here and nowhere else.

The queue, job, retry, in-progress and result keys are arq's own layout, so arq's tools can read
them; the rest lives under one prefix per queue, so several queues share a Redis without meeting.
"""

from dataclasses import dataclass

from arq.constants import (
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

JOB_TTL_S = 24 * 3600  # the latest deadline, and that of a job without one; no job lives longer
JOB_KEPT_S = JOB_TTL_S + 3600  # what a job not ended leaves behind lives this long
RESULT_TTL_S = 3600  # default; `ttl_s` of the request wins
TOMBSTONE_S = 900  # a record lives at least this long after the end: a frozen worker may wake up
REPLIES_TTL_S = 600  # an api replica's stream outlives the replica this long
REPLIES_MAX_ENTRIES = 10_000
WORKER_TTL_S = 10  # a worker that has not reported for this long is not live
LOADING_TTL_S = 6 * 3600  # a model loads in this time; 80 GB from the hub take their while
MODEL_CARD_TTL_S = 30 * 24 * 3600  # refreshed while a worker serves the model
DEAD_LETTERS_MAX = 1000  # ids of the latest jobs that were given up
UNKNOWN_RETRY_AFTER_S = 10  # while no rate is known: before a first worker, or a first backlog
LISTED_MAX = 10_000  # ended jobs of each status that a listing shows: the latest

LEASED = 2**42  # scores below: waiting jobs (ms of the year 2109); from here on: running ones
PRIORITY_WINDOW_MS = 30_000  # head start of one priority step, so nothing waits for ever


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names for one queue; `queue` is the name of arq's sorted set."""

    queue: str = "falconer:queue"

    def arq_job(self, job_id: str) -> str:
        return job_key_prefix + job_id

    def arq_retry(self, job_id: str) -> str:
        return retry_key_prefix + job_id

    def arq_in_progress(self, job_id: str) -> str:
        return in_progress_key_prefix + job_id

    def arq_result(self, job_id: str) -> str:
        return result_key_prefix + job_id

    def record(self, job_id: str) -> str:
        """Hash: payload, status, times, owner, watchers of one job."""
        return f"{self.queue}:record:{job_id}"

    def token_log(self, job_id: str) -> str:
        """List: the deltas of a streamed job, in order."""
        return f"{self.queue}:log:{job_id}"

    def payload(self, job_id: str) -> str:
        """Payload of a job that ended without a result, for a retry."""
        return f"{self.queue}:payload:{job_id}"

    def idempotency(self, digest: str) -> str:
        return f"{self.queue}:idempotency:{digest}"

    @property
    def wake(self) -> str:
        """List an idle worker blocks on; one element says that a job is ready."""
        return f"{self.queue}:wake"

    def control(self, worker_id: str) -> str:
        """List of the ids of jobs that a worker must cancel."""
        return f"{self.queue}:control:{worker_id}"

    def replies(self, replica_id: str) -> str:
        """Stream of events for one api replica."""
        return f"{self.queue}:replies:{replica_id}"

    @property
    def workers(self) -> str:
        """Sorted set: worker id → last report, Redis time in ms."""
        return f"{self.queue}:workers"

    def worker(self, worker_id: str) -> str:
        return f"{self.queue}:worker:{worker_id}"

    @property
    def current_model(self) -> str:
        """Hash of the model card that requests are checked against."""
        return f"{self.queue}:model"

    @property
    def loading(self) -> str:
        """Digest of the checkpoint that a worker has begun to load, until it is published."""
        return f"{self.queue}:loading"

    def model_card(self, card_hash: str) -> str:
        return f"{self.queue}:model:{card_hash}"

    @property
    def jobs(self) -> str:
        """Sorted set of all jobs by status and creation, see `job_index.lua`."""
        return f"{self.queue}:jobs"

    @property
    def emptying(self) -> str:
        """The worker that takes nothing more until it is empty, for jobs that must run alone."""
        return f"{self.queue}:emptying"

    @property
    def line(self) -> str:
        """Hash: what waits and how fast it drains, see `backlog.lua`."""
        return f"{self.queue}:line"

    @property
    def totals(self) -> str:
        """Hash: how many jobs were accepted (queued) and how many ended in each status."""
        return f"{self.queue}:totals"

    @property
    def dead_letters(self) -> str:
        return f"{self.queue}:dead"
