"""How much a long prompt that arrives disturbs those that are being answered."""

import random
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from bench.mixes import FIRST_WORD_ID
from shared.errors import FalconerError
from worker.engine import Engine, Request, RequestFailed, SamplingParams

NUM_STREAMS = 16
STREAM_PROMPT = 64  # tokens
STREAM_MAX_NEW = 500  # more than anybody waits for
LONG_PROMPT = 1500
QUIET_STEPS = 80  # before the prompt arrives: about as many as it takes then
ARRIVAL = "arrival"


@dataclass(slots=True)
class Gaps:
    """Seconds between the tokens of each request, in the order they came."""

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

    def take_last(self, names: list[str], count: int) -> list[float]:
        """The last `count` gaps of each request; all gaps so far are forgotten."""
        taken = [gap for name in names for gap in self.by_request[name][-count:]]
        self.by_request.clear()
        return taken


def measure_latency(engine: Engine, *, vocab_size: int, rounds: int) -> dict[str, Any]:
    """The median one of `rounds` arrivals, each as `disturb` tells it."""
    results = [disturb(engine, vocab_size, seed) for seed in range(rounds)]
    return sorted(results, key=lambda result: result["max_over_median"])[rounds // 2]


def disturb(engine: Engine, vocab_size: int, seed: int) -> dict[str, float]:
    """Let a long prompt arrive among running streams; the engine is empty before and after.

    All in seconds, or over the median gap of the quiet time before. `usual_over_median` is the
    median gap while the prompt was read, `max_over_median` the worst that any stream had, and
    `quiet_max_over_median` the worst before the prompt came: what the machine does by itself.
    """
    draw = random.Random(seed)
    streams = [f"stream {i}" for i in range(NUM_STREAMS)]
    gaps = Gaps()
    for name in streams:
        engine.add(_request(name, draw, vocab_size, STREAM_PROMPT))
    while len(gaps.by_request[streams[-1]]) < QUIET_STEPS:
        gaps.step(engine)
    quiet = gaps.take_last(streams, QUIET_STEPS)
    engine.add(_request(ARRIVAL, draw, vocab_size, LONG_PROMPT))
    arrived_at = time.perf_counter()
    while ARRIVAL not in gaps.last_token_at:
        gaps.step(engine)
    ttft_s = gaps.last_token_at[ARRIVAL] - arrived_at
    disturbed = [gap for name in streams for gap in gaps.by_request[name]]
    for name in (*streams, ARRIVAL):
        engine.abort(name)
    median = statistics.median(quiet)
    return {
        "median_gap_s": median,
        "max_gap_s": max(disturbed),
        "usual_over_median": statistics.median(disturbed) / median,
        "max_over_median": max(disturbed) / median,
        "quiet_max_over_median": max(quiet) / median,
        "long_prompt_ttft_s": ttft_s,
    }


def _request(name: str, draw: random.Random, vocab_size: int, num_prompt: int) -> Request:
    prompt = [draw.randrange(FIRST_WORD_ID, vocab_size) for _ in range(num_prompt)]
    params = SamplingParams(max_new_tokens=STREAM_MAX_NEW)
    return Request(request_id=name, prompt_token_ids=prompt, params=params)
