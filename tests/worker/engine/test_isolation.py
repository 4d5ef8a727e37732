"""What a request is told is the same alone, in a crowd, after preemption, on a warm cache."""

from dataclasses import replace

import pytest

from tests.worker.engine.company import Guest, Result, play
from tests.worker.engine.company_strategies import examples, guests, num_blocks_alone
from tests.worker.engine.conftest import STYLES
from tests.worker.engine.court import Court
from tests.worker.engine.oracle import Judge
from tests.worker.engine.param_strategies import (
    BEAM_SAMPLING,
    BEAMS,
    DIVERSE_BEAMS,
    GREEDY,
    SAMPLING,
    prompts,
)
from worker.engine import Engine, EngineConfig

MANNERS = (GREEDY, SAMPLING, BEAMS, BEAM_SAMPLING, DIVERSE_BEAMS)
NUM_OF_EACH = 24
CROWD = 32
BLOCK_SIZE = 4
ROOMY = EngineConfig(max_rows=6 * CROWD, num_blocks=2_000, block_size=BLOCK_SIZE)

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")


@pytest.fixture(scope="module", params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def court(judges: dict[str, Judge]) -> Court:
    return Court(judges)


@pytest.fixture(scope="module")
def everybody() -> list[Guest]:
    """Requests of all manners in turn, each with something to say for a while."""
    long = prompts(min_size=2 * BLOCK_SIZE + 1, max_size=6 * BLOCK_SIZE)
    by_manner = [examples(guests(params, long), NUM_OF_EACH) for params in MANNERS]
    in_turn = [guest for one_of_each in zip(*by_manner, strict=True) for guest in one_of_each]
    return [
        replace(guest, params=replace(guest.params, max_new_tokens=8 + number % 5))
        for number, guest in enumerate(in_turn)
    ]


@pytest.fixture(scope="module")
def alone(court: Court, style: str, everybody: list[Guest]) -> list[Result]:
    """What each is told by an engine that never knew anybody else."""
    return [play(court.engine(style, ROOMY), [guest])[0] for guest in everybody]


def assert_same(court: Court, style: str, guest: Guest, result: Result, expected: Result) -> None:
    """The same tokens, text and ends; failing that, rounding must have decided between equals.

    How far the other sequences of a request got when one failed is up to who ran when.
    """
    assert (result.failure is None) == (expected.failure is None)
    if expected.failure is not None or result.told == expected.told:
        return
    if guest.params.num_beams > 1 and guest.params.do_sample:
        assert court.is_tie(style, ROOMY, guest, result)
    else:
        court.judge(style, guest, result)
        court.judge(style, guest, expected)


def test_among_31_others(
    court: Court, style: str, everybody: list[Guest], alone: list[Result]
) -> None:
    last = len(everybody) - CROWD
    for start in (*range(0, last, CROWD), last):
        crowd = everybody[start : start + CROWD]
        results, num_rows = play_crowd(court.engine(style, ROOMY), crowd)
        assert num_rows >= CROWD
        for one in zip(crowd, results, alone[start : start + CROWD], strict=True):
            assert_same(court, style, *one)


def play_crowd(engine: Engine, crowd: list[Guest]) -> tuple[list[Result], int]:
    """The results, and the most rows that ran at once."""
    num_rows: list[int] = []
    results = play(engine, crowd, lambda _: num_rows.append(engine.last_step.num_rows))
    return results, max(num_rows)


def test_after_preemption(
    court: Court, style: str, everybody: list[Guest], alone: list[Result]
) -> None:
    """Most are sent back, for want of room or on purpose.

    In a pool this small, what others need makes the cache forget what they had computed. The few
    that need more than nine in ten do are left out.
    """
    needs = [num_blocks_alone(guest, BLOCK_SIZE) for guest in everybody]
    num_blocks = sorted(needs)[len(needs) * 9 // 10]
    modest = [number for number, need in enumerate(needs) if need <= num_blocks]
    tight = replace(ROOMY, max_rows=CROWD, num_blocks=num_blocks, max_step_tokens=CROWD + 8)
    engine = court.engine(style, tight)
    sent_back: set[str] = set()
    results = play(
        engine,
        [everybody[number] for number in modest],
        lambda _: send_somebody_back(engine, sent_back),
    )
    for number, result in zip(modest, results, strict=True):
        assert_same(court, style, everybody[number], result, alone[number])
    assert len(sent_back) > 0.75 * len(modest)
    assert engine._scheduler.num_preemptions > len(sent_back), "nobody lacked room"


def send_somebody_back(engine: Engine, sent_back: set[str]) -> None:
    """The first in line who has said something and was not sent back here before."""
    for group in engine._scheduler.running:
        if group.sequences[0].num_generated_tokens > 1 and group.request_id not in sent_back:
            sent_back.add(group.request_id)
            engine._scheduler._preempt(group)
            return


def test_while_everybody_guesses_what_comes_next(
    court: Court, style: str, everybody: list[Guest], alone: list[Result]
) -> None:
    """Beams, which guess nothing, are left out."""
    pairs = [pair for pair in zip(everybody, alone, strict=True) if pair[0].params.num_beams == 1]
    guessing = replace(ROOMY, block_size=16, prompt_lookup_num_tokens=6, max_drafting_tokens=512)
    engine = court.engine(style, guessing)
    num_accepted: list[int] = []
    results = play(
        engine,
        [guest for guest, _ in pairs],
        lambda _: num_accepted.append(engine.last_step.num_accepted_drafts),
    )
    for (guest, expected), result in zip(pairs, results, strict=True):
        assert_same(court, style, guest, result, expected)
    assert sum(num_accepted) > 10


def test_with_its_prefix_in_the_cache_or_not(
    court: Court, style: str, everybody: list[Guest], alone: list[Result]
) -> None:
    for guest, expected in zip(everybody, alone, strict=True):
        engine = court.engine(style, ROOMY)
        blocks = engine._block_manager
        [missed] = play(engine, [guest])
        num_missed = blocks.num_prefix_hit_tokens
        [hit] = play(engine, [guest])
        if _is_trusted(guest, missed):
            num_full_blocks = (len(guest.prompt) - 1) // BLOCK_SIZE
            assert blocks.num_prefix_hit_tokens - num_missed >= num_full_blocks * BLOCK_SIZE
        for result in (missed, hit):
            assert_same(court, style, guest, result, expected)


def _is_trusted(guest: Guest, result: Result) -> bool:
    """Whether others may use what it computed: not of who failed, or may hide invalid logits."""
    return result.failure is None and not guest.params.remove_invalid_values


def test_everybody_has_something_else_to_say(alone: list[Result]) -> None:
    assert len({str(result.told) for result in alone}) > 0.75 * len(alone), "a degenerate model"


def test_hardly_ever_did_rounding_decide(court: Court) -> None:
    assert len(court.ties) <= 3, court.ties
