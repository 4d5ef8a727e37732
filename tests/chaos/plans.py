"""The traffic of a run, drawn from its seed: which caller asks what, how, and with which whim."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

from tests.chaos.asks import BAD_ASKS, Ask, BadAsk

# A call's ttl is its signature: what is left in Redis tells whose it was. Longer than the default.
FIRST_TTL_S = 4000


class Kind(StrEnum):
    """How a caller waits for its text."""

    SYNC = "sync"
    STREAM = "stream"
    POLL = "poll"
    LONG_POLL = "long-poll"
    EVENTS = "events"
    PREFER_WAIT = "prefer-wait"
    BAD = "bad input"


class Whim(StrEnum):
    """What a caller does beside waiting."""

    NONE = "none"
    CANCEL = "cancel"  # DELETE
    RETRY = "retry"  # DELETE, and when it has ended, a retry
    LEAVE = "leave"  # closes the connection
    REPEAT = "repeat"  # sends it again under the same key
    CONFLICT = "conflict"  # sends something else under the same key
    DEADLINE = "deadline"


KINDS = {
    Kind.SYNC: 25,
    Kind.STREAM: 22,
    Kind.POLL: 12,
    Kind.LONG_POLL: 14,
    Kind.EVENTS: 14,
    Kind.PREFER_WAIT: 5,
    Kind.BAD: 8,
}
WHIMS = {
    Whim.NONE: 60,
    Whim.CANCEL: 8,
    Whim.RETRY: 8,
    Whim.LEAVE: 7,
    Whim.REPEAT: 7,
    Whim.CONFLICT: 3,
    Whim.DEADLINE: 7,
}
WITH_A_JOB_ID = (Kind.STREAM, Kind.POLL, Kind.LONG_POLL, Kind.EVENTS)  # known before the end
WITH_A_RECORD = (Kind.POLL, Kind.LONG_POLL, Kind.EVENTS)  # looked at until the end
WITH_AN_OPEN_CALL = (Kind.SYNC, Kind.STREAM)


@dataclass(frozen=True, slots=True)
class Plan:
    """One call. `whim_after_s`: how long after its start the whim comes over the caller."""

    number: int
    kind: Kind
    ask: Ask
    other_ask: Ask  # what a conflict sends
    bad_ask: BadAsk
    whim: Whim
    whim_after_s: float
    key: str | None
    deadline_s: float | None
    ttl_s: int

    @property
    def asks_for_a_job(self) -> bool:
        return self.kind is not Kind.BAD

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {**self.ask.body, "ttl_s": self.ttl_s}
        if self.kind is Kind.STREAM:
            body["stream"] = True
        return body if self.deadline_s is None else {**body, "deadline_s": self.deadline_s}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Idempotency-Key": self.key}

    def __str__(self) -> str:
        named = self.bad_ask.name if self.kind is Kind.BAD else self.ask.name
        whim = "" if self.whim is Whim.NONE else f", {self.whim} after {self.whim_after_s:.2f} s"
        return f"{self.kind} {named}{whim}{', key' if self.key else ''}"


def call_number(ttl_ms: int) -> int:
    """Whose job it was, by the ttl in its record."""
    return ttl_ms // 1000 - FIRST_TTL_S


def draw_plans(seed: int, num_jobs: int, asks: list[Ask]) -> list[Plan]:
    """Calls until so many ask for a job: bad input comes on top."""
    random = Random(f"{seed}:plans")
    plans: list[Plan] = []
    while num_jobs > 0:
        plans.append(_draw_plan(random, seed, len(plans), asks))
        num_jobs -= plans[-1].asks_for_a_job
    return plans


def _draw_plan(random: Random, seed: int, number: int, asks: list[Ask]) -> Plan:
    kind = random.choices(list(KINDS), weights=list(KINDS.values()))[0]
    whim = _fitting(random.choices(list(WHIMS), weights=list(WHIMS.values()))[0], kind)
    has_key = whim in (Whim.REPEAT, Whim.CONFLICT) or (
        random.random() < 0.6 and whim is not Whim.LEAVE
    )
    ask, other_ask = random.sample(asks, 2)
    return Plan(
        number=number,
        kind=kind,
        ask=ask,
        other_ask=other_ask,
        bad_ask=random.choice(BAD_ASKS),
        whim=whim,
        whim_after_s=random.uniform(0, 1.0) ** 2,
        key=f"chaos-{seed}-{number}" if has_key and kind is not Kind.BAD else None,
        deadline_s=random.choice((0.05, 0.5, 20.0)) if whim is Whim.DEADLINE else None,
        ttl_s=FIRST_TTL_S + number,
    )


def _fitting(whim: Whim, kind: Kind) -> Whim:
    """Not every caller can have every whim."""
    if kind is Kind.BAD:
        return Whim.NONE
    if whim is Whim.CANCEL and kind not in WITH_A_JOB_ID:
        return Whim.NONE
    if whim is Whim.RETRY and kind not in WITH_A_RECORD:
        return Whim.NONE
    if whim is Whim.LEAVE and kind not in WITH_AN_OPEN_CALL:
        return Whim.NONE
    return whim
