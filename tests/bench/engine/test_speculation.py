"""The benchmark of speculative decoding on the bundled model."""

import pytest

from bench.engine.engine_bench import EngineBench
from bench.engine.speculation import (
    REPETITIVE,
    STEP_TOKENS,
    TEXTS,
    Pace,
    compare,
    make_requests,
    step_seconds,
)
from worker.engine import Engine


def load() -> Engine:
    return EngineBench("tiny", device="cpu", executor="torch", threads=1).load()[0]


def test_a_step_of_each_size_takes_some_time() -> None:
    seconds = step_seconds(load(), rounds=1)
    assert tuple(seconds) == STEP_TOKENS
    assert min(seconds.values()) > 0


def test_drafts_need_fewer_steps_for_a_repetitive_text() -> None:
    figures = compare(load(), REPETITIVE, num_drafts=6, rows=2, num_new=40, rounds=1)
    plain, drafted = figures["tokens_per_step"]
    assert plain <= 2
    assert drafted > 1.5 * plain


@pytest.mark.parametrize("text", TEXTS)
def test_every_row_generates_all_its_tokens(text: str) -> None:
    engine = load()
    pace = Pace.of(engine, make_requests(engine, text, 4, rows=3, num_new=10))
    assert pace.num_tokens == 30
    assert pace.num_steps < 15
