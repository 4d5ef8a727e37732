"""The measurement of guesses, on the bundled model: equals are compared, guesses win steps."""

import pytest

from bench.engine.engine_bench import EngineBench
from bench.engine.speculation import (
    QUOTES,
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


def test_guesses_need_fewer_steps_for_a_text_that_quotes() -> None:
    figures = compare(load(), QUOTES, num_drafts=6, rows=2, num_new=40, rounds=1)
    plain, drafted = figures["tokens_per_step"]
    assert plain <= 2
    assert drafted > 1.5 * plain


@pytest.mark.parametrize("text", TEXTS)
def test_every_row_makes_all_its_tokens(text: str) -> None:
    engine = load()
    pace = Pace.of(engine, make_requests(engine, text, 4, rows=3, num_new=10))
    assert pace.num_tokens == 30
    assert pace.num_steps < 15
