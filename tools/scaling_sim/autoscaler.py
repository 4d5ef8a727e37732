"""KEDA and its HorizontalPodAutoscaler, by their documented rules.

KEDA decides between zero and one worker. Above, the number of replicas is jobs ÷ listLength within
the policies of the manifest. Times are seconds of the caller's clock.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import yaml

MANIFEST = Path(__file__).parents[2] / "deploy/k8s/components/keda/scaledobject.yaml"

SYNC_S = 15  # period of the HorizontalPodAutoscaler
TOLERANCE = 0.1  # a ratio closer to 1 changes nothing


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `pods` replicas may be added or removed within `period_s`."""

    pods: int
    period_s: int


@dataclass(frozen=True, slots=True)
class Rules:
    max_replicas: int
    list_length: int
    polling_s: int
    cooldown_s: int
    up: Policy
    down: Policy
    down_window_s: int

    @classmethod
    def from_manifest(cls, path: Path) -> "Rules":
        spec = next(yaml.safe_load_all(path.read_text()))["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        (up,), (down,) = behavior["scaleUp"]["policies"], behavior["scaleDown"]["policies"]
        return cls(
            max_replicas=spec["maxReplicaCount"],
            list_length=int(spec["triggers"][0]["metadata"]["listLength"]),
            polling_s=spec["pollingInterval"],
            cooldown_s=spec["cooldownPeriod"],
            up=Policy(up["value"], up["periodSeconds"]),
            down=Policy(down["value"], down["periodSeconds"]),
            down_window_s=behavior["scaleDown"]["stabilizationWindowSeconds"],
        )


class Autoscaler:
    def __init__(self, rules: Rules) -> None:
        self.replicas = 0
        self._rules = rules
        self._active_at = -math.inf
        self._looked_at = -math.inf
        self._history: list[tuple[float, int]] = [(0.0, 0)]  # (time, replicas) of every change
        self._wanted: list[tuple[float, int]] = []

    def observe(self, now: float, num_jobs: int) -> int:
        """Return the number of replicas from now on; `num_jobs` is the ZCARD of the queue."""
        if num_jobs > 0:
            self._active_at = now
        if self.replicas == 0:
            self._set(now, 1 if num_jobs > 0 else 0)
        elif now - self._active_at >= self._rules.cooldown_s:
            self._set(now, 0)
        elif now - self._looked_at >= SYNC_S:
            self._looked_at = now
            self._set(now, self._sync(now, num_jobs))
        return self.replicas

    def _sync(self, now: float, num_jobs: int) -> int:
        wanted = self._want(num_jobs)
        since = now - self._rules.down_window_s
        self._wanted = [(at, one) for at, one in self._wanted if at > since] + [(now, wanted)]
        if wanted > self.replicas:
            return min(wanted, self._least(now - self._rules.up.period_s) + self._rules.up.pods)
        stable = max(one for _, one in self._wanted)
        slowest = self._most(now - self._rules.down.period_s) - self._rules.down.pods
        return min(self.replicas, max(stable, slowest))

    def _want(self, num_jobs: int) -> int:
        ratio = num_jobs / (self._rules.list_length * self.replicas)
        if abs(ratio - 1) <= TOLERANCE:
            return self.replicas
        wanted = math.ceil(num_jobs / self._rules.list_length)
        return min(max(wanted, 1), self._rules.max_replicas)

    def _set(self, now: float, replicas: int) -> None:
        if replicas != self.replicas:
            self._history.append((now, replicas))
        self.replicas = replicas

    def _since(self, start: float) -> list[int]:
        """Return the replicas at `start` and all later numbers."""
        before = [count for at, count in self._history if at <= start][-1:]
        return [*before, *(count for at, count in self._history if at > start)] or [0]

    def _least(self, start: float) -> int:
        return min(self._since(start))

    def _most(self, start: float) -> int:
        return max(self._since(start))
