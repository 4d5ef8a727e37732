"""Diverse beam search gives the results of transformers 4.37 (record_diverse_beams.py)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.worker.engine.conftest import STYLES
from tests.worker.engine.oracle import Oracle
from tests.worker.engine.sampling.rows import make_sequence
from tests.worker.engine.workload import Result, ScheduledRequest, run_all
from worker.engine import Engine, EngineConfig, SamplingParams
from worker.engine.scheduling.sequence_group import SequenceGroup

FIXTURES = Path(__file__).parent / "fixtures" / "diverse_beams.json"


@dataclass(frozen=True)
class Case:
    prompt: tuple[int, ...]
    params: SamplingParams
    token_ids: list[list[int]]
    scores: list[float]


def load_cases(style: str) -> list[Case]:
    return [
        Case(
            tuple(case["prompt"]),
            SamplingParams(**{name: as_tuple(v) for name, v in case["params"].items()}),
            case["token_ids"],
            case["scores"],
        )
        for case in json.loads(FIXTURES.read_text())
        if case["style"] == style
    ]


def as_tuple(value: Any) -> Any:
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


def check(case: Case, result: Result) -> None:
    count = len(case.token_ids)
    assert [result.token_ids(rank) for rank in range(count)] == case.token_ids, case.params
    scores = [result.outputs[rank][-1].score for rank in range(count)]
    assert scores == pytest.approx(case.scores, rel=1e-4, abs=1e-4)


def num_blocks_alone(case: Case, block_size: int) -> int:
    sequence = make_sequence(list(case.prompt), case.params)
    return SequenceGroup([sequence], case.params.num_beams).max_blocks(block_size)


def play_all(
    oracle: Oracle, config: EngineConfig, cases: list[Case]
) -> tuple[Engine, list[Result]]:
    """Three cases come in each step, with a greedy request among them."""
    engine = Engine.from_pretrained(str(oracle.path), dtype="float32", config=config)
    scheduled_requests = [
        ScheduledRequest(c.prompt, c.params, arrives=n // 3) for n, c in enumerate(cases)
    ]
    others = [
        ScheduledRequest(c.prompt, SamplingParams(), arrives=n // 3)
        for n, c in enumerate(cases[::3])
    ]
    return engine, run_all(engine, (*scheduled_requests, *others))[: len(cases)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "config",
    [
        EngineConfig(max_rows=12, num_blocks=64),
        EngineConfig(max_rows=64, num_blocks=512, max_step_tokens=128),
    ],
    ids=["few at once", "many at once"],
)
def test_diverse_beams_equal_transformers_4_37(
    oracles: dict[str, Oracle], style: str, config: EngineConfig
) -> None:
    cases = load_cases(style)
    _, results = play_all(oracles[style], config, cases)
    for case, result in zip(cases, results, strict=True):
        check(case, result)


@pytest.mark.parametrize("style", STYLES)
def test_preemption_does_not_change_the_results_of_a_beam_search(
    oracles: dict[str, Oracle], style: str
) -> None:
    cases = load_cases(style)
    num_blocks = max(num_blocks_alone(case, block_size=4) for case in cases)
    config = EngineConfig(max_rows=64, num_blocks=num_blocks, block_size=4, max_step_tokens=64)
    engine, results = play_all(oracles[style], config, cases)
    assert engine.scheduler.num_preemptions > 0
    for case, result in zip(cases, results, strict=True):
        check(case, result)
