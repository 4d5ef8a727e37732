"""Rounds of contenders that answer at once: what is made of their figures."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers import comparison
from bench.peers.comparison import Comparison
from bench.peers.contenders import FALCONER, Contender, ContenderRun
from bench.workloads import GREEDY, WorkItem, drawn_lengths, read_workload
from shared.errors import FalconerError

Answer = Callable[[list[WorkItem]], ContenderRun]


class Players:
    """Stand for the processes: each contender's runs, in order, from the requests it was given."""

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
        monkeypatch.setattr(comparison, "run_contender", Players(**answers).run)
        items = drawn_lengths(GREEDY, vocab_size=100, num_requests=8)
        played = Comparison(items, tmp_path, threads=1)
        for _ in answers[FALCONER]:
            for name in answers:
                played.run(contender(name))
        return played

    return play


def contender(name: str, num_requests: int = 8) -> Contender:
    return Contender(name, (), num_requests)


def test_ratios_are_taken_round_by_round(compare: Callable[..., Comparison]) -> None:
    played = compare(falconer=[made(100), made(50), made(80)], peer=[made(50), made(10), made(20)])
    summary = played.summary(contender("peer"))
    assert summary["falconer_is_faster"] == [2.0, 4.0, 5.0]
    assert summary["tokens_per_s"] == 20


def test_any_two_sides_can_be_set_against_each_other(compare: Callable[..., Comparison]) -> None:
    played = compare(falconer=[made(10)], int8=[made(30)], torch=[made(20)])
    assert played.ratios("int8", "torch") == [1.5]


def test_a_side_that_fails_is_told_once_and_left_out(compare: Callable[..., Comparison]) -> None:
    played = compare(falconer=[made(1)] * 3, peer=[made(1), broken])
    assert played.failures == {"peer": "no such package"}
    assert list(played.runs) == [FALCONER]
    assert len(played.runs[FALCONER]) == 3


def test_equal_outputs_are_counted_on_the_sample_that_a_side_ran(
    compare: Callable[..., Comparison],
) -> None:
    played = compare(falconer=[made(1, 7)], peer=[made(1, 8)])
    assert played.same_outputs(contender("peer")) == 0.0
    few = contender("few", num_requests=3)
    played.runs["few"] = [made(1, 7)(played.sample(few))]
    assert played.same_outputs(few) == 1.0


def test_quantized_choices_are_judged_one_by_one(compare: Callable[..., Comparison]) -> None:
    played = compare(falconer=[made(1, 7)], int8=[made(1, 7), made(1, 8)])
    assert played.agreement(contender("int8")) == 0.0


def test_agreement_asks_for_one_token_after_the_first_tokens(
    compare: Callable[..., Comparison],
) -> None:
    def one_token_each(items: list[WorkItem]) -> ContenderRun:
        assert {item.generate_kwargs["max_new_tokens"] for item in items} == {1}
        return made(1, 7)(items)

    played = compare(falconer=[made(1, 7)], int8=[made(1, 7), one_token_each])
    assert played.agreement(contender("int8")) == 1.0
