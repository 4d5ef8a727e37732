"""Measure how much the prefill of a long prompt delays the tokens of running streams."""

import random
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from bench.workloads import FIRST_WORD_ID
from shared.errors import FalconerError
from worker.engine import Engine, Request, RequestFailed, SamplingParams

NUM_STREAMS = 16
STREAM_PROMPT = 64  # tokens
STREAM_MAX_NEW = 500  # more than the measurement needs
LONG_PROMPT = 1500
QUIET_STEPS = 80  # before the prompt; about as many as its prefill takes
ARRIVAL = "arrival"


@dataclass(slots=True)
class Gaps:
    """Seconds between the tokens of each request, in order."""

    by_request: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    last_token_at: dict[str, float] = field(default_factory=dict)

    def step(self, engine: Engine) -> None:
        outputs = engine.step()
        now = time.perf_counter()
        for output in outputs:
            if isinstance(output, RequestFailed):
                raise FalconerError(f"{output.request_id} failed: {output.message}")
            if (last := self.last_token_at.get(output.request_id)) is not None:
                self.by_request[output.request_id].append(now - last)
            self.last_token_at[output.request_id] = now

    def of(self, names: list[str]) -> list[list[float]]:
        """Return the gaps of the named requests, and forget all gaps."""
        taken = [self.by_request[name] for name in names]
        self.by_request.clear()
        return taken


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Gaps of each stream in seconds, before and during the prefill of a long prompt."""

    quiet: list[list[float]]
    disturbed: list[list[float]]
    ttft_s: float  # of the long prompt

    @property
    def median_s(self) -> float:
        return statistics.median(gap for gaps in self.quiet for gap in gaps)

    def over_median(self, gap_s: float) -> float:
        return gap_s / self.median_s

    def worst_by_step(self) -> list[float]:
        """Return the longest gap over all streams in each step of the prefill."""
        return [max(gaps) for gaps in zip(*self.disturbed, strict=True)]


def measure_latency(engine: Engine, *, vocab_size: int, rounds: int) -> dict[str, Any]:
    """Measure `rounds` arrivals of a long prompt and summarize them."""
    return summarize([disturb(engine, vocab_size, seed) for seed in range(rounds)])


def summarize(rounds: list[Disturbance]) -> dict[str, Any]:
    """Return the figures of all rounds; ratios are to the median gap before the prefill.

    `usual_over_median` and `max_over_median` are the median and the longest gap during a prefill.
    `quiet_max_over_median` is the longest gap before it. Each is the median over the rounds.
    `step_max_over_median` takes the median over the rounds for each step, then the maximum. Delays
    by the machine hit a step of one round, delays by the engine the same step of all rounds.
    """
    by_step = zip(*([d.over_median(gap) for gap in d.worst_by_step()] for d in rounds), strict=True)
    return {
        "rounds": len(rounds),
        "median_gap_s": statistics.median(d.median_s for d in rounds),
        "usual_over_median": statistics.median(
            d.over_median(statistics.median(d.worst_by_step())) for d in rounds
        ),
        "max_over_median": statistics.median(d.over_median(max(d.worst_by_step())) for d in rounds),
        "step_max_over_median": max(statistics.median(step) for step in by_step),
        "quiet_max_over_median": statistics.median(
            d.over_median(max(map(max, d.quiet))) for d in rounds
        ),
        "long_prompt_ttft_s": statistics.median(d.ttft_s for d in rounds),
    }


def disturb(engine: Engine, vocab_size: int, seed: int) -> Disturbance:
    """Add a long prompt to running streams. The engine is idle before and after."""
    draw = random.Random(seed)
    streams = [f"stream {i}" for i in range(NUM_STREAMS)]
    gaps = Gaps()
    for name in streams:
        engine.add(_request(name, draw, vocab_size, STREAM_PROMPT))
    while len(gaps.by_request[streams[-1]]) < QUIET_STEPS:
        gaps.step(engine)
    quiet = [each[-QUIET_STEPS:] for each in gaps.of(streams)]
    engine.add(_request(ARRIVAL, draw, vocab_size, LONG_PROMPT))
    arrived_at = time.perf_counter()
    while ARRIVAL not in gaps.last_token_at:
        gaps.step(engine)
    ttft_s = gaps.last_token_at[ARRIVAL] - arrived_at
    for name in (*streams, ARRIVAL):
        engine.abort(name)
    return Disturbance(quiet, gaps.of(streams), ttft_s)


def _request(name: str, draw: random.Random, vocab_size: int, num_prompt: int) -> Request:
    prompt = [draw.randrange(FIRST_WORD_ID, vocab_size) for _ in range(num_prompt)]
    params = SamplingParams(max_new_tokens=STREAM_MAX_NEW)
    return Request(request_id=name, prompt_token_ids=prompt, params=params)
