"""Draw the calls of a run from its seed: requests, how each call waits, and extra actions."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from tests.chaos.scenarios.requests import INVALID_REQUESTS, InvalidRequest, Request

# Each call has its own TTL, so that a record in Redis identifies the call. Above the default TTL.
FIRST_TTL_S = 4000


class CallKind(StrEnum):
    """How a caller waits for the result."""

    SYNC = "sync"
    STREAM = "stream"
    POLL = "poll"
    LONG_POLL = "long-poll"
    EVENTS = "events"
    PREFER_WAIT = "prefer-wait"
    INVALID = "invalid request"


class CallerAction(StrEnum):
    """What a caller does besides waiting."""

    NONE = "none"
    CANCEL = "cancel"  # DELETE
    RETRY = "retry"  # DELETE, then POST /jobs/{id}/retry
    DISCONNECT = "disconnect"  # closes the connection
    REPEAT = "repeat"  # sends the request again with the same key
    CONFLICT = "conflict"  # sends another request with the same key
    DEADLINE = "deadline"


KINDS = {
    CallKind.SYNC: 25,
    CallKind.STREAM: 22,
    CallKind.POLL: 12,
    CallKind.LONG_POLL: 14,
    CallKind.EVENTS: 14,
    CallKind.PREFER_WAIT: 5,
    CallKind.INVALID: 8,
}
ACTIONS = {
    CallerAction.NONE: 60,
    CallerAction.CANCEL: 8,
    CallerAction.RETRY: 8,
    CallerAction.DISCONNECT: 7,
    CallerAction.REPEAT: 7,
    CallerAction.CONFLICT: 3,
    CallerAction.DEADLINE: 7,
}
# Kinds whose caller knows the job id before the job ends.
WITH_JOB_ID = (CallKind.STREAM, CallKind.POLL, CallKind.LONG_POLL, CallKind.EVENTS)
WITH_RECORD = (CallKind.POLL, CallKind.LONG_POLL, CallKind.EVENTS)  # whose caller polls the job
WITH_OPEN_CALL = (CallKind.SYNC, CallKind.STREAM)


@dataclass(frozen=True, slots=True)
class CallPlan:
    """One call of a run."""

    number: int
    kind: CallKind
    request: Request
    conflicting_request: Request  # sent by CallerAction.CONFLICT
    invalid_request: InvalidRequest
    action: CallerAction
    action_after_s: float  # from the start of the call
    key: str | None
    deadline_s: float | None
    ttl_s: int

    @property
    def submits_job(self) -> bool:
        return self.kind is not CallKind.INVALID

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {**self.request.body, "ttl_s": self.ttl_s}
        if self.kind is CallKind.STREAM:
            body["stream"] = True
        return body if self.deadline_s is None else {**body, "deadline_s": self.deadline_s}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Idempotency-Key": self.key}

    def __str__(self) -> str:
        request = self.request if self.submits_job else self.invalid_request
        after_s = f" after {self.action_after_s:.2f} s"
        action = "" if self.action is CallerAction.NONE else f", {self.action}{after_s}"
        return f"{self.kind} {request.name}{action}{', key' if self.key else ''}"


def call_number(ttl_ms: int) -> int:
    """Return the number of the call whose job has this TTL."""
    return ttl_ms // 1000 - FIRST_TTL_S


def draw_plans(seed: int, num_jobs: int, requests: list[Request]) -> list[CallPlan]:
    """Draw calls until `num_jobs` of them submit a job; invalid requests are extra."""
    random = Random(f"{seed}:plans")
    plans: list[CallPlan] = []
    while num_jobs > 0:
        plans.append(_draw_plan(random, seed, len(plans), requests))
        num_jobs -= plans[-1].submits_job
    return plans


def _draw_plan(random: Random, seed: int, number: int, requests: list[Request]) -> CallPlan:
    kind = random.choices(list(KINDS), weights=list(KINDS.values()))[0]
    action = _allowed_action(random.choices(list(ACTIONS), weights=list(ACTIONS.values()))[0], kind)
    has_key = action in (CallerAction.REPEAT, CallerAction.CONFLICT) or (
        random.random() < 0.6 and action is not CallerAction.DISCONNECT
    )
    request, conflicting_request = random.sample(requests, 2)
    return CallPlan(
        number=number,
        kind=kind,
        request=request,
        conflicting_request=conflicting_request,
        invalid_request=random.choice(INVALID_REQUESTS),
        action=action,
        action_after_s=random.uniform(0, 1.0) ** 2,
        key=f"chaos-{seed}-{number}" if has_key and kind is not CallKind.INVALID else None,
        deadline_s=random.choice((0.05, 0.5, 20.0)) if action is CallerAction.DEADLINE else None,
        ttl_s=FIRST_TTL_S + number,
    )


def _allowed_action(action: CallerAction, kind: CallKind) -> CallerAction:
    """Return the action, or NONE if a call of this kind cannot take it."""
    if kind is CallKind.INVALID:
        return CallerAction.NONE
    if action is CallerAction.CANCEL and kind not in WITH_JOB_ID:
        return CallerAction.NONE
    if action is CallerAction.RETRY and kind not in WITH_RECORD:
        return CallerAction.NONE
    if action is CallerAction.DISCONNECT and kind not in WITH_OPEN_CALL:
        return CallerAction.NONE
    return action
