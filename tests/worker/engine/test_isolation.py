"""The output of a request is the same alone, in a batch, after preemption, on a warm cache."""

from dataclasses import dataclass, replace

import pytest

from tests.worker.engine.conftest import STYLES
from tests.worker.engine.oracle import Oracle
from tests.worker.engine.oracle_check import OracleCheck
from tests.worker.engine.param_strategies import (
    BEAM_SAMPLING,
    BEAMS,
    DIVERSE_BEAMS,
    GREEDY,
    SAMPLING,
    prompts,
)
from tests.worker.engine.workload import Result, ScheduledRequest, run_all
from tests.worker.engine.workload_strategies import examples, num_blocks_alone, scheduled_requests
from worker.engine import Engine, EngineConfig

MODES = (GREEDY, SAMPLING, BEAMS, BEAM_SAMPLING, DIVERSE_BEAMS)
NUM_OF_EACH = 16
BATCH = 32
BLOCK_SIZE = 4
ROOMY = EngineConfig(max_rows=6 * BATCH, num_blocks=2_000, block_size=BLOCK_SIZE)

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")


@pytest.fixture(scope="module", params=STYLES)
def style(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def checker(oracles: dict[str, Oracle]) -> OracleCheck:
    return OracleCheck(oracles)


@pytest.fixture(scope="module")
def all_requests() -> list[ScheduledRequest]:
    """Requests of all decoding modes in turn, each with at least eight tokens."""
    long = prompts(min_size=2 * BLOCK_SIZE + 1, max_size=6 * BLOCK_SIZE)
    by_mode = [examples(scheduled_requests(params, long), NUM_OF_EACH) for params in MODES]
    in_turn = [scheduled for one_of_each in zip(*by_mode, strict=True) for scheduled in one_of_each]
    return [
        replace(scheduled, params=replace(scheduled.params, max_new_tokens=8 + number % 5))
        for number, scheduled in enumerate(in_turn)
    ]


@dataclass
class Alone:
    """A request on a new engine, and once more with its prefix in the cache."""

    cold: Result
    warm: Result
    num_hit_tokens: int  # of the second run

    @classmethod
    def run(cls, engine: Engine, scheduled: ScheduledRequest) -> "Alone":
        [cold] = run_all(engine, [scheduled])
        num_before = engine.num_prefix_hit_tokens
        [warm] = run_all(engine, [scheduled])
        return cls(cold, warm, engine.num_prefix_hit_tokens - num_before)


@pytest.fixture(scope="module")
def runs_alone(
    checker: OracleCheck, style: str, all_requests: list[ScheduledRequest]
) -> list[Alone]:
    return [Alone.run(checker.engine(style, ROOMY), scheduled) for scheduled in all_requests]


@pytest.fixture(scope="module")
def alone(runs_alone: list[Alone]) -> list[Result]:
    """The result of each request on a new engine."""
    return [run.cold for run in runs_alone]


def assert_same(
    checker: OracleCheck, style: str, scheduled: ScheduledRequest, result: Result, expected: Result
) -> None:
    """Assert the same tokens, text and ends, unless rounding decided between equals.

    If a sequence fails, the progress of the request's other sequences depends on the batch.
    """
    assert (result.failure is None) == (expected.failure is None)
    if expected.failure is not None or result.text == expected.text:
        return
    if scheduled.params.num_beams > 1 and scheduled.params.do_sample:
        assert checker.is_tie(style, ROOMY, scheduled, result)
    else:
        checker.compare(style, scheduled, result)
        checker.compare(style, scheduled, expected)


def test_a_request_among_31_others_gets_its_own_result(
    checker: OracleCheck, style: str, all_requests: list[ScheduledRequest], alone: list[Result]
) -> None:
    last = len(all_requests) - BATCH
    for start in (*range(0, last, BATCH), last):
        batch = all_requests[start : start + BATCH]
        results, num_rows = run_batch(checker.engine(style, ROOMY), batch)
        assert num_rows >= BATCH
        for compared in zip(batch, results, alone[start : start + BATCH], strict=True):
            assert_same(checker, style, *compared)


def run_batch(engine: Engine, batch: list[ScheduledRequest]) -> tuple[list[Result], int]:
    """Return the results, and the most rows of a step."""
    num_rows: list[int] = []
    results = run_all(engine, batch, lambda _: num_rows.append(engine.last_step.num_rows))
    return results, max(num_rows)


def test_a_preempted_request_gets_its_own_result(
    checker: OracleCheck, style: str, all_requests: list[ScheduledRequest], alone: list[Result]
) -> None:
    """Most requests are preempted, for lack of blocks or on purpose.

    In a KV cache this small, blocks of preempted requests are evicted. The tenth of the requests
    that needs the most blocks is left out.
    """
    needs = [num_blocks_alone(scheduled, BLOCK_SIZE) for scheduled in all_requests]
    num_blocks = sorted(needs)[len(needs) * 9 // 10]
    small = [number for number, need in enumerate(needs) if need <= num_blocks]
    tight = replace(ROOMY, max_rows=BATCH, num_blocks=num_blocks, max_step_tokens=BATCH + 8)
    engine = checker.engine(style, tight)
    preempted: set[str] = set()
    results = run_all(
        engine,
        [all_requests[number] for number in small],
        lambda _: preempt_one(engine, preempted),
    )
    for number, result in zip(small, results, strict=True):
        assert_same(checker, style, all_requests[number], result, alone[number])
    assert len(preempted) > 0.75 * len(small)
    assert engine.scheduler.num_preemptions > len(preempted), "blocks never ran out"


def preempt_one(engine: Engine, preempted: set[str]) -> None:
    """Preempt the first group with new tokens that was not preempted here before."""
    for group in engine.scheduler.running:
        if group.sequences[0].num_generated_tokens > 1 and group.request_id not in preempted:
            preempted.add(group.request_id)
            engine.scheduler.preempt(group)
            return


def test_with_drafts_for_every_request(
    checker: OracleCheck, style: str, all_requests: list[ScheduledRequest], alone: list[Result]
) -> None:
    """Beam searches, which get no drafts, are left out."""
    pairs = [
        pair for pair in zip(all_requests, alone, strict=True) if pair[0].params.num_beams == 1
    ]
    drafting = replace(ROOMY, block_size=16, prompt_lookup_num_tokens=6, max_drafting_tokens=512)
    engine = checker.engine(style, drafting)
    num_accepted: list[int] = []
    results = run_all(
        engine,
        [scheduled for scheduled, _ in pairs],
        lambda _: num_accepted.append(engine.last_step.num_accepted_drafts),
    )
    for (scheduled, expected), result in zip(pairs, results, strict=True):
        assert_same(checker, style, scheduled, result, expected)
    assert sum(num_accepted) > 10


def test_with_its_prefix_in_the_cache_or_not(
    checker: OracleCheck,
    style: str,
    all_requests: list[ScheduledRequest],
    runs_alone: list[Alone],
) -> None:
    for scheduled, run in zip(all_requests, runs_alone, strict=True):
        if _is_cacheable(scheduled, run.cold):
            num_full_blocks = (len(scheduled.prompt) - 1) // BLOCK_SIZE
            assert run.num_hit_tokens >= num_full_blocks * BLOCK_SIZE
        assert_same(checker, style, scheduled, run.warm, run.cold)


def _is_cacheable(scheduled: ScheduledRequest, result: Result) -> bool:
    """Return whether other requests may use its blocks: not if it failed or repairs logits."""
    return result.failure is None and not scheduled.params.remove_invalid_values


def test_the_requests_have_different_outputs(alone: list[Result]) -> None:
    assert len({str(result.text) for result in alone}) > 0.75 * len(alone), (
        "the model is degenerate"
    )


def test_rounding_decided_few_comparisons(checker: OracleCheck) -> None:
    assert len(checker.ties) <= 3, checker.ties
