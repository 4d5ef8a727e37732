"""Simulate a load of 50 requests/s for an hour, and draw it.

python -m tools.scaling_sim docs/images/autoscaling.svg
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from shared.redis.client import connect
from tests.deploy.manifests import ROOT
from tests.redis_server import RedisServer
from tools.scaling_sim.autoscaler import Rules
from tools.scaling_sim.plot import Line, Panel, draw
from tools.scaling_sim.simulation import Moment, Scenario, SimulationResult, simulate

MANIFEST = ROOT / "deploy" / "k8s" / "components" / "keda" / "scaledobject.yaml"
LOAD_ENDS_S = 60 * 60
SCENARIO = Scenario(
    rate=lambda now: 50.0 if now < LOAD_ENDS_S else 0.0,
    until_s=120 * 60,
    slots=64,
    service_s=8,
    load_s=16 * 60,
)


async def run(rules: Rules) -> SimulationResult:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        redis = connect(server.url, name="scaling")
        try:
            return await simulate(redis, rules, SCENARIO)
        finally:
            await redis.aclose()
            server.stop()


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
