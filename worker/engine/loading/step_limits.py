"""Choose the limits of a step that no setting gives: by device, and by what a step takes.

A setting that is given is kept. Before a model is loaded, an open limit is the upper bound of its
device; forecasts of memory use that bound. On a CPU, measured times then lower it. `choose_rows`
weighs throughput against the time between two tokens of a stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from worker.engine.config import EngineConfig

CANDIDATE_ROWS = (8, 16, 32, 64, 128)  # few, so that noise seldom changes the choice
SUFFICIENT_SHARE = 0.95  # of the most tokens per second
# The longest decoding step, unless two rows in turn take longer: a stream gets 8 tokens a second,
# and 4 while a prompt doubles the step. Readers take in about 5.
LONGEST_DECODE_S = 0.125
LONGEST_STEP_S = 2.0  # of prompts alone: a request that arrives waits for its end
# Below, a step of prompts reads the weights too often: it computes a tenth fewer tokens per second.
LEAST_STEP_TOKENS = 128
CHUNK_MULTIPLE = 2
CHUNK_SHARE = 0.9  # of a decoding step: the longest of many steps must not take twice as long
TOKENS_PER_ROW = 256  # that the KV cache must hold for each row


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds that the steps of a loaded model take."""

    decode_s: Mapping[int, float]  # by the rows that decode; 1 is among them
    prompt_token_s: float  # that one more prompt token adds to a step

    def __str__(self) -> str:
        steps = ", ".join(f"{rows}: {1000 * s:.1f}" for rows, s in self.decode_s.items())
        return f"ms by decoding rows {steps}; {1000 * self.prompt_token_s:.2f} ms a prompt token"


def lower_to_times(bounds: EngineConfig, times: StepTimes) -> EngineConfig:
    """Return `bounds` with its open limits lowered to what the times allow."""
    limits = {
        "max_rows": choose_rows(times.decode_s),
        "max_step_tokens": choose_step_tokens(times.prompt_token_s, bounds.max_step_tokens),
        "max_chunk_tokens": choose_chunk_tokens(times),
    }
    return _lower(bounds, limits)


def lower_to_defaults(bounds: EngineConfig) -> EngineConfig:
    """Return `bounds` with its open limits lowered to the defaults of EngineConfig."""
    defaults = EngineConfig()
    return _lower(bounds, {name: getattr(defaults, name) for name in bounds.open_limits})


def _lower(bounds: EngineConfig, limits: Mapping[str, int]) -> EngineConfig:
    lowered = {name: min(limits[name], getattr(bounds, name)) for name in bounds.open_limits}
    if "max_step_tokens" in lowered:  # every row gets a token in every step
        max_rows = lowered.get("max_rows", bounds.max_rows)
        lowered["max_step_tokens"] = max(lowered["max_step_tokens"], max_rows)
    return replace(bounds, **lowered)


def lower_to_blocks(config: EngineConfig, num_blocks: int) -> EngineConfig:
    """Return `config` with fewer rows, if open, where memory leaves few tokens for each."""
    if "max_rows" not in config.open_limits or config.num_blocks is not None:
        return config
    most = max(1, num_blocks * config.block_size // TOKENS_PER_ROW)
    return replace(config, max_rows=min(config.max_rows, most))


def choose_rows(decode_s: Mapping[int, float]) -> int:
    """Return the most rows whose step takes up to `longest_decode_s`.

    Rows that make less than 95 % of the most tokens per second do not count.
    """
    longest = longest_decode_s(decode_s)
    rates = {rows: rows / seconds for rows, seconds in decode_s.items() if seconds <= longest}
    sufficient = SUFFICIENT_SHARE * max(rates.values())
    return max(CANDIDATE_ROWS[0], max(rows for rows, rate in rates.items() if rate >= sufficient))


def longest_decode_s(decode_s: Mapping[int, float]) -> float:
    """Return the longest decoding step that may be chosen."""
    return max(LONGEST_DECODE_S, 2 * decode_s[1])


def choose_step_tokens(prompt_token_s: float, most: int) -> int:
    """Halve `most` until a step of prompts takes `LONGEST_STEP_S`, but not below 128."""
    while most > LEAST_STEP_TOKENS and most * prompt_token_s > LONGEST_STEP_S:
        most //= 2
    return max(most, LEAST_STEP_TOKENS)


def choose_chunk_tokens(times: StepTimes) -> int:
    """Return how many prompt tokens take 90 % of the time of a decoding step of one row.

    Taken from a step of up to 16 rows, because each row costs about one prompt token. A multiple
    of 2.
    """
    rows = max(rows for rows in times.decode_s if rows <= 16)
    num_tokens = CHUNK_SHARE * times.decode_s[rows] / times.prompt_token_s - rows + 1
    return max(CHUNK_MULTIPLE, CHUNK_MULTIPLE * round(num_tokens / CHUNK_MULTIPLE))
