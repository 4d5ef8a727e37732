"""Draw the faults of a run from its seed: kind, target, duration, and after how many jobs."""

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
    BLACK_HOLE = "network black hole"
    SLOW = "network slow"


class TargetKind(StrEnum):
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
    FaultKind.BLACK_HOLE: 7,
    FaultKind.SLOW: 5,
}
TARGET_KINDS = {
    FaultKind.WORKER_KILL: TargetKind.WORKER,
    FaultKind.WORKER_FREEZE: TargetKind.WORKER,
    FaultKind.WORKER_STOP: TargetKind.WORKER,
    FaultKind.API_KILL: TargetKind.API,
    FaultKind.API_STOP: TargetKind.API,
    FaultKind.REDIS_KILL: TargetKind.REDIS,
    FaultKind.REDIS_FREEZE: TargetKind.REDIS,
    FaultKind.CLIENT_KILL: TargetKind.REDIS,
    FaultKind.CUT: TargetKind.NETWORK,
    FaultKind.BLACK_HOLE: TargetKind.NETWORK,
    FaultKind.SLOW: TargetKind.NETWORK,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a run."""

    number: int
    kind: FaultKind
    target: str  # name of a process, "redis" or "all"
    after_jobs: int  # the fault starts before the next call after this many submitted jobs
    lasts_s: float
    drops: bool  # whether a black hole drops the blocked bytes or delivers them late

    def __str__(self) -> str:
        return f"after job {self.after_jobs}: {self.kind} of {self.target}, {self.lasts_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Processes of a run and the lease of its workers."""

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
    """Draw `count` faults in order, spread over the jobs; every kind occurs if there is room."""
    random = Random(f"{seed}:faults")
    kinds = _draw_kinds(random, count)
    positions = sorted(random.uniform(0.05, 0.95) for _ in range(count))
    return [
        Fault(
            number=number,
            kind=kind,
            target=_draw_target(random, kind, fleet),
            after_jobs=round(position * num_jobs),
            lasts_s=_draw_duration(random, kind, fleet.lease_s),
            drops=random.random() < 0.5,
        )
        for number, (kind, position) in enumerate(zip(kinds, positions, strict=True))
    ]


def _draw_kinds(random: Random, count: int) -> list[FaultKind]:
    """Draw each kind once if there is room, the rest by weight."""
    kinds = list(FaultKind)
    random.shuffle(kinds)
    rest = random.choices(
        list(WEIGHTS), weights=list(WEIGHTS.values()), k=max(0, count - len(kinds))
    )
    drawn = kinds[:count] + rest
    random.shuffle(drawn)
    return drawn


def _draw_target(random: Random, kind: FaultKind, fleet: Fleet) -> str:
    match TARGET_KINDS[kind]:
        case TargetKind.WORKER:
            return random.choice(fleet.workers)
        case TargetKind.API:
            return random.choice(fleet.apis)
        case TargetKind.REDIS:
            return "redis"
        case TargetKind.NETWORK:
            return random.choice([*fleet.workers, *fleet.apis, "all"])


def _draw_duration(random: Random, kind: FaultKind, lease_s: float) -> float:
    """Draw the seconds until the fault is repaired or the process restarted."""
    match kind:
        case FaultKind.WORKER_FREEZE:
            return lease_s * random.uniform(0.3, 2.5)
        case FaultKind.BLACK_HOLE | FaultKind.CUT | FaultKind.SLOW:
            return random.uniform(0.5, 1.5 * lease_s)
        case FaultKind.REDIS_FREEZE | FaultKind.REDIS_KILL:
            return random.uniform(0.1, 3.0)
        case FaultKind.CLIENT_KILL:
            return 0.0
        case _:
            return random.uniform(0.0, 1.0)
