"""Simulate a load of 50 requests/s for an hour, and draw it.

python -m tools.scaling_sim docs/images/autoscaling.svg
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from serve.child import Child
from serve.embedded_redis import EmbeddedRedis
from shared.redis.client import connect
from shared.redis.retry import retry_until_reachable
from tools.scaling_sim.autoscaler import MANIFEST, Rules
from tools.scaling_sim.plot import Line, Panel, draw
from tools.scaling_sim.simulation import Moment, Scenario, SimulationResult, simulate

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
LOAD_ENDS_S = 60 * 60
SCENARIO = Scenario(
    rate=lambda now: 50.0 if now < LOAD_ENDS_S else 0.0,
    until_s=120 * 60,
    slots=64,
    service_s=8,
    load_s=16 * 60,
)


log = structlog.get_logger(__name__)


async def run(rules: Rules) -> SimulationResult:
    with redis_in_memory() as url:
        redis = connect(url, name="scaling")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await retry_until_reachable(redis.ping, log, "waiting for Redis")
            return await simulate(redis, rules, SCENARIO)
        finally:
            await redis.aclose()


@contextmanager
def redis_in_memory() -> Iterator[str]:
    """Start the server of `falconer serve` without its file; yield the URL."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis.prepare(Path(folder))
        child = Child(
            "redis",
            [server.binary, "-"],
            os.environ,
            Path(folder) / "redis.log",
            server.configuration + "appendonly no\n",
        )
        child.start()
        try:
            yield server.url
        finally:
            child.terminate()
            child.wait(time.monotonic() + STOP_TIMEOUT_S)


def plot(result: SimulationResult) -> str:
    def line(label: str, color: str, field: str) -> Line:
        return Line(label, color, [peak(part, field) for part in half_minutes])

    half_minutes = [result.moments[i : i + 15] for i in range(0, len(result.moments), 15)]
    panels = [
        Panel("Workers", [line("wanted", "#999", "replicas"), line("ready", "#06c", "ready")]),
        Panel("Waiting jobs", [line("", "#c60", "waiting")]),
        Panel("Wait before the start, in seconds", [line("", "#c06", "wait_s")]),
    ]
    return draw(panels, SCENARIO.until_s / 60)


def peak(moments: list[Moment], field: str) -> tuple[float, float | None]:
    """Return the start in minutes and the maximum of a field, or None without values."""
    values = [value for one in moments if (value := getattr(one, field)) is not None]
    return moments[0].at_s / 60, max(values, default=None)


def summary(result: SimulationResult) -> str:
    waits = [one for one in result.moments if one.wait_s is not None and one.at_s < LOAD_ENDS_S]
    calm = next(one.at_s for one in waits if one.wait_s is not None and one.wait_s < 10)
    gone = next(one.at_s for one in reversed(result.moments) if one.replicas)
    lost = set(result.accepted) - set(result.finished)
    return (
        f"accepted {len(result.accepted)}, refused {result.refused}, lost {len(lost)}; "
        f"at most {max(one.replicas for one in result.moments)} workers, "
        f"longest wait {max(one.wait_s or 0 for one in waits):.0f} s, "
        f"under 10 s from minute {calm / 60:.0f}, last worker removed in minute {gone / 60:.0f}"
    )


def main() -> None:
    result = asyncio.run(run(Rules.from_manifest(MANIFEST)))
    Path(sys.argv[1]).write_text(plot(result))
    print(summary(result))


if __name__ == "__main__":
    main()
