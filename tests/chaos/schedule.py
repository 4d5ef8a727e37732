"""The faults of a run, drawn from its seed: what breaks, how badly, and after how many jobs."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random


class FaultKind(StrEnum):
    WORKER_KILL = "worker kill -9"
    WORKER_FREEZE = "worker SIGSTOP"
    WORKER_STOP = "worker SIGTERM"
    API_KILL = "api kill -9"
    API_STOP = "api SIGTERM"
    REDIS_KILL = "redis kill -9"
    REDIS_FREEZE = "redis SIGSTOP"
    CLIENT_KILL = "CLIENT KILL"
    CUT = "network cut"
    HOLD = "network black hole"
    SLOW = "network slow"


class Target(StrEnum):
    WORKER = "worker"
    API = "api"
    REDIS = "redis"
    NETWORK = "network"  # of one process, or of all


WEIGHTS = {
    FaultKind.WORKER_KILL: 18,
    FaultKind.WORKER_FREEZE: 14,
    FaultKind.WORKER_STOP: 9,
    FaultKind.API_KILL: 10,
    FaultKind.API_STOP: 8,
    FaultKind.REDIS_KILL: 8,
    FaultKind.REDIS_FREEZE: 5,
    FaultKind.CLIENT_KILL: 9,
    FaultKind.CUT: 7,
    FaultKind.HOLD: 7,
    FaultKind.SLOW: 5,
}
TARGETS = {
    FaultKind.WORKER_KILL: Target.WORKER,
    FaultKind.WORKER_FREEZE: Target.WORKER,
    FaultKind.WORKER_STOP: Target.WORKER,
    FaultKind.API_KILL: Target.API,
    FaultKind.API_STOP: Target.API,
    FaultKind.REDIS_KILL: Target.REDIS,
    FaultKind.REDIS_FREEZE: Target.REDIS,
    FaultKind.CLIENT_KILL: Target.REDIS,
    FaultKind.CUT: Target.NETWORK,
    FaultKind.HOLD: Target.NETWORK,
    FaultKind.SLOW: Target.NETWORK,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """`member`: the name of what it strikes. Nothing of the traffic after `after_jobs` jobs were
    asked for begins before the fault has."""

    number: int
    kind: FaultKind
    member: str
    after_jobs: int
    lasts_s: float
    drops: bool  # a black hole: whether what it held back is lost at its end, or comes late

    def __str__(self) -> str:
        return f"after job {self.after_jobs}: {self.kind} of {self.member}, {self.lasts_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many there are to strike, and how long a lease is, s."""

    num_apis: int
    num_workers: int
    lease_s: float

    @property
    def apis(self) -> list[str]:
        return [f"api-{number}" for number in range(1, self.num_apis + 1)]

    @property
    def workers(self) -> list[str]:
        return [f"worker-{number}" for number in range(1, self.num_workers + 1)]


def draw_schedule(seed: int, count: int, num_jobs: int, fleet: Fleet) -> list[Fault]:
    """Spread over the jobs, in order; the kinds in shuffled rounds so that none is left out."""
    random = Random(f"{seed}:faults")
    kinds = _draw_kinds(random, count)
    places = sorted(random.uniform(0.05, 0.95) for _ in range(count))
    return [
        Fault(
            number=number,
            kind=kind,
            member=_draw_member(random, kind, fleet),
            after_jobs=round(place * num_jobs),
            lasts_s=_draw_duration(random, kind, fleet.lease_s),
            drops=random.random() < 0.5,
        )
        for number, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]


def _draw_kinds(random: Random, count: int) -> list[FaultKind]:
    """Each kind once if there is room, the rest by weight."""
    kinds = list(FaultKind)
    random.shuffle(kinds)
    rest = random.choices(
        list(WEIGHTS), weights=list(WEIGHTS.values()), k=max(0, count - len(kinds))
    )
    drawn = kinds[:count] + rest
    random.shuffle(drawn)
    return drawn


def _draw_member(random: Random, kind: FaultKind, fleet: Fleet) -> str:
    match TARGETS[kind]:
        case Target.WORKER:
            return random.choice(fleet.workers)
        case Target.API:
            return random.choice(fleet.apis)
        case Target.REDIS:
            return "redis"
        case Target.NETWORK:
            return random.choice([*fleet.workers, *fleet.apis, "all"])


def _draw_duration(random: Random, kind: FaultKind, lease_s: float) -> float:
    """How long it lasts before it is put right; what is killed is started again after it."""
    match kind:
        case FaultKind.WORKER_FREEZE:
            return lease_s * random.uniform(0.3, 2.5)
        case FaultKind.HOLD | FaultKind.CUT | FaultKind.SLOW:
            return random.uniform(0.5, 1.5 * lease_s)
        case FaultKind.REDIS_FREEZE | FaultKind.REDIS_KILL:
            return random.uniform(0.1, 3.0)
        case FaultKind.CLIENT_KILL:
            return 0.0
        case _:
            return random.uniform(0.0, 1.0)
