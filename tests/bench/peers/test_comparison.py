"""Rounds of fake contenders, and the figures of the comparison."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers import comparison
from bench.peers.comparison import Comparison
from bench.peers.contenders import FALCONER, Contender, ContenderRun
from bench.workloads import GREEDY, WorkItem, drawn_lengths, read_workload
from shared.errors import FalconerError

Answer = Callable[[list[WorkItem]], ContenderRun]


class FakeContenders:
    """Fake contenders, whose runs are given in order, as functions of the requests."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers = {name: iter(list_) for name, list_ in answers.items()}

    def run(
        self, contender: Contender, requests: Path, json_out: Path, threads: int
    ) -> ContenderRun:
        return next(self.answers[contender.name])(read_workload(requests))


def made(tokens_per_s: float, token_id: int = 7) -> Answer:
    return lambda items: ContenderRun(
        tokens_per_s, [[token_id] * i.generate_kwargs["max_new_tokens"] for i in items]
    )


def broken(items: list[WorkItem]) -> ContenderRun:
    raise FalconerError("no such package")


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    def play(**answers: list[Answer]) -> Comparison:
        monkeypatch.setattr(comparison, "run_contender", FakeContenders(**answers).run)
        items = drawn_lengths(GREEDY, vocab_size=100, num_requests=8)
        rounds = Comparison(items, tmp_path, threads=1)
        for _ in answers[FALCONER]:
            for name in answers:
                rounds.run(contender(name))
        return rounds

    return play


def contender(name: str, num_requests: int = 8) -> Contender:
    return Contender(name, (), num_requests)


def test_ratios_are_taken_round_by_round(compare: Callable[..., Comparison]) -> None:
    rounds = compare(falconer=[made(100), made(50), made(80)], peer=[made(50), made(10), made(20)])
    summary = rounds.summary(contender("peer"))
    assert summary["falconer_is_faster"] == [2.0, 4.0, 5.0]
    assert summary["tokens_per_s"] == 20


def test_ratios_exist_between_any_two_contenders(compare: Callable[..., Comparison]) -> None:
    rounds = compare(falconer=[made(10)], int8=[made(30)], torch=[made(20)])
    assert rounds.ratios("int8", "torch") == [1.5]


def test_a_failed_contender_is_reported_once_and_skipped(
    compare: Callable[..., Comparison],
) -> None:
    rounds = compare(falconer=[made(1)] * 3, peer=[made(1), broken])
    assert rounds.failures == {"peer": "no such package"}
    assert list(rounds.runs) == [FALCONER]
    assert len(rounds.runs[FALCONER]) == 3


def test_equal_outputs_are_counted_over_the_contenders_sample(
    compare: Callable[..., Comparison],
) -> None:
    rounds = compare(falconer=[made(1, 7)], peer=[made(1, 8)])
    assert rounds.same_outputs(contender("peer")) == 0.0
    few = contender("few", num_requests=3)
    rounds.runs["few"] = [made(1, 7)(rounds.sample(few))]
    assert rounds.same_outputs(few) == 1.0


def test_quantized_tokens_are_compared_one_by_one(compare: Callable[..., Comparison]) -> None:
    rounds = compare(falconer=[made(1, 7)], int8=[made(1, 7), made(1, 8)])
    assert rounds.agreement(contender("int8")) == 0.0


def test_agreement_requests_one_token_after_each_prefix(
    compare: Callable[..., Comparison],
) -> None:
    def one_token_each(items: list[WorkItem]) -> ContenderRun:
        assert {item.generate_kwargs["max_new_tokens"] for item in items} == {1}
        return made(1, 7)(items)

    rounds = compare(falconer=[made(1, 7)], int8=[made(1, 7), one_token_each])
    assert rounds.agreement(contender("int8")) == 1.0
