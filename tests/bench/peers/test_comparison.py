"""Rounds of fake contenders, and the figures of the comparison."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers import comparison
from bench.peers.comparison import Comparison
from bench.peers.contenders import Contender, ContenderRun, Mode, Side
from bench.workloads import GREEDY, WorkItem, drawn_lengths, read_workload
from shared.errors import FalconerError

Answer = Callable[[list[WorkItem], list[WorkItem]], ContenderRun]

FALCONER = "falconer, float32"
PEER = "vllm, float32"


class FakeContenders:
    """Fake contenders, whose runs are given in order, as functions of the requests."""

    def __init__(self, answers: dict[str, list[Answer]]) -> None:
        self.answers = {name: iter(list_) for name, list_ in answers.items()}

    def run(
        self,
        contender: Contender,
        requests: Path,
        choices: Path | None,
        json_out: Path,
        threads: int,
    ) -> ContenderRun:
        repeated = read_workload(choices) if choices else []
        return next(self.answers[contender.name])(read_workload(requests), repeated)


def made(tokens_per_s: float, token_id: int = 7, choice: int = 7) -> Answer:
    def answer(items: list[WorkItem], choices: list[WorkItem]) -> ContenderRun:
        outputs = [[token_id] * i.generate_kwargs["max_new_tokens"] for i in items]
        return ContenderRun(tokens_per_s, outputs, [[choice] for _ in choices], None)

    return answer


def broken(items: list[WorkItem], choices: list[WorkItem]) -> ContenderRun:
    raise FalconerError("no such package")


def contender(name: str, num_requests: int = 8) -> Contender:
    side, _, mode = name.partition(", ")
    return Contender(Side(side), Mode(mode), mode, (), num_requests)


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    def play(answers: dict[str, list[Answer]], num_requests: int = 8) -> Comparison:
        monkeypatch.setattr(comparison, "run_contender", FakeContenders(answers).run)
        items = drawn_lengths(GREEDY, vocab_size=100, num_requests=8)
        reference = [[7] * item.generate_kwargs["max_new_tokens"] for item in items]
        contenders = [contender(name, num_requests) for name in answers]
        rounds = Comparison(items, reference, tmp_path, 1, contenders)
        for _ in answers[FALCONER]:
            for each in contenders:
                rounds.run(each)
        return rounds

    return play


def test_ratios_are_taken_round_by_round(compare: Callable[..., Comparison]) -> None:
    rounds = compare(
        {FALCONER: [made(100), made(50), made(80)], PEER: [made(50), made(10), made(20)]}
    )
    summary = rounds.summaries()[PEER]
    assert summary["falconer_is_faster"] == {"float32": [2.0, 4.0, 5.0]}
    assert summary["tokens_per_s"] == [50, 10, 20]


def test_each_of_falconers_modes_has_a_ratio(compare: Callable[..., Comparison]) -> None:
    rounds = compare({FALCONER: [made(10)], "falconer, best": [made(30)], PEER: [made(20)]})
    ratios = rounds.summaries()[PEER]["falconer_is_faster"]
    assert ratios == {"float32": [0.5] * 3, "best": [1.5] * 3}


def test_a_failed_contender_is_reported_once_and_skipped(
    compare: Callable[..., Comparison],
) -> None:
    rounds = compare({FALCONER: [made(1)] * 3, PEER: [made(1), broken]})
    assert rounds.failures == {PEER: "no such package"}
    assert list(rounds.summaries()) == [FALCONER]
    assert len(rounds.runs[FALCONER]) == 3


def test_a_peer_is_measured_without_falconer(compare: Callable[..., Comparison]) -> None:
    rounds = compare({FALCONER: [broken], PEER: [made(5)]})
    assert rounds.summaries()[PEER]["falconer_is_faster"] == {}


@pytest.mark.parametrize("num_requests", [3, 8])
def test_equal_outputs_are_counted_over_the_contenders_sample(
    compare: Callable[..., Comparison], num_requests: int
) -> None:
    rounds = compare({FALCONER: [made(1, 7)], PEER: [made(1, 8)]}, num_requests)
    same = {name: summary["same_outputs"] for name, summary in rounds.summaries().items()}
    assert same == {FALCONER: 1.0, PEER: 0.0}


def test_agreement_is_measured_in_the_first_round_only(compare: Callable[..., Comparison]) -> None:
    rounds = compare({FALCONER: [made(1)] * 2, PEER: [made(1, choice=8), made(1)]})
    agreement = {name: summary["agreement"] for name, summary in rounds.summaries().items()}
    assert agreement == {FALCONER: 1.0, PEER: 0.0}
    assert [len(run.choices) for run in rounds.runs[PEER]] == [16, 0]


def test_agreement_requests_one_token_after_each_prefix(
    compare: Callable[..., Comparison],
) -> None:
    def one_token_each(items: list[WorkItem], choices: list[WorkItem]) -> ContenderRun:
        assert {item.generate_kwargs["max_new_tokens"] for item in choices} == {1}
        return made(1)(items, choices)

    rounds = compare({FALCONER: [one_token_each]})
    assert rounds.summaries()[FALCONER]["agreement"] == 1.0
