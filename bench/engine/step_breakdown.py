"""Divide the time of the engine's steps into its own phases and compare it with the dense floor."""

import time
from collections import Counter
from typing import Any

from bench.engine.dense_floor import DenseLayers
from shared.errors import FalconerError
from worker.engine import Engine, Request, RequestFailed

REST = "rest of the step"


def measure_steps(
    engine: Engine, dense_layers: DenseLayers, requests: list[Request]
) -> dict[str, Any]:
    """Run all requests at once and return sums over all steps, in seconds.

    The dense layers run alone after each step, so that a machine whose speed drifts affects both
    alike.
    """
    for request in requests:
        engine.add(request)
    seconds: Counter[str] = Counter()
    num_steps, engine_s, dense_alone_s = 0, 0.0, 0.0
    while engine.has_work:
        started = time.perf_counter()
        outputs = engine.step()
        stepped = time.perf_counter()
        if failed := [output for output in outputs if isinstance(output, RequestFailed)]:
            raise FalconerError(f"{failed[0].request_id} failed: {failed[0].message}")
        step = engine.last_step
        dense_layers(step.num_tokens, step.num_rows)
        num_steps, engine_s = num_steps + 1, engine_s + stepped - started
        dense_alone_s += time.perf_counter() - stepped
        seconds.update({phase.value: spent for phase, spent in step.seconds.items()})
    return {
        "steps": num_steps,
        "engine_s": engine_s,
        "dense_alone_s": dense_alone_s,
        "dense_alone_over_engine": dense_alone_s / engine_s,
        "phases_s": {**seconds, REST: engine_s - seconds.total()},
    }
