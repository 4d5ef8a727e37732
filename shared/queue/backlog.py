"""Decode what `backlog.lua` says of the backlog: the estimate for a waiting job, and refusals."""

import math
from dataclasses import dataclass
from typing import Any

from shared.errors import QueueFull, WaitTooLong


@dataclass(frozen=True, slots=True)
class Depth:
    waiting: int  # jobs
    running: int  # leased jobs


@dataclass(frozen=True, slots=True)
class QueueEstimate:
    position: int  # from 1
    expected_start_s: float | None  # from now; None without a measured claim rate
    has_worker: bool  # whether any worker is live


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """What would become of a job that is enqueued now."""

    queue: QueueEstimate
    expected_run_s: float | None  # None without a measured claim rate
    refusal: QueueFull | WaitTooLong | None  # the error of its enqueue


def decode_job_estimate(reply: list[Any], max_queued: int, max_queued_tokens: int) -> JobEstimate:
    """Decode the reply of `estimate.lua`."""
    estimate, run_ms, refused = reply
    return JobEstimate(
        decode_estimate(estimate),
        None if run_ms is None else int(run_ms) / 1000,
        decode_refusal(refused, max_queued, max_queued_tokens) if refused else None,
    )


def decode_estimate(reply: list[Any]) -> QueueEstimate:
    position, wait_ms, num_workers = reply
    expected_start_s = None if wait_ms is None else int(wait_ms) / 1000
    return QueueEstimate(position, expected_start_s, num_workers > 0)


def decode_refusal(
    reply: list[Any], max_queued: int, max_queued_tokens: int
) -> QueueFull | WaitTooLong:
    """Convert a refusal of `backlog.lua` into the error for the client, status 429."""
    _, reason, retry_after_ms, num_jobs, num_tokens, wait_ms = reply
    retry_after_s = math.ceil(int(retry_after_ms) / 1000)
    if reason == b"deadline":
        return WaitTooLong(
            f"the job would wait for about {math.ceil(int(wait_ms) / 1000)} s: "
            f"{num_jobs} jobs are waiting",
            field="deadline_s",
            retry_after_s=retry_after_s,
        )
    if reason == b"too many jobs":
        limit = f"{num_jobs} jobs are waiting, at most {max_queued} may"
    else:
        limit = (
            f"{num_jobs} jobs are waiting for {num_tokens} tokens of KV cache; "
            f"with this one they would be more than {max_queued_tokens}"
        )
    return QueueFull(f"the queue is full: {limit}", retry_after_s=retry_after_s)
