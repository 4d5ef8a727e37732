"""Random workloads are reproducible, within bounds and comparable."""

from pathlib import Path

import pytest

from bench.engine.engine_bench import EngineBench, to_request
from bench.workloads import (
    DIFFERENT,
    GREEDY,
    LONGEST,
    SAMPLING,
    SHORTEST,
    WorkItem,
    drawn_lengths,
    equal_lengths,
    read_workload,
    representative,
    write_workloads,
)


@pytest.fixture
def items() -> list[WorkItem]:
    return drawn_lengths(GREEDY, vocab_size=1000)


def lengths(items: list[WorkItem]) -> list[tuple[int, int]]:
    return [(len(i.prompt_ids or ()), i.generate_kwargs["max_new_tokens"]) for i in items]


def test_random_lengths_differ_within_their_range(items: list[WorkItem]) -> None:
    drawn = [length for pair in lengths(items) for length in pair]
    assert min(drawn) >= SHORTEST
    assert max(drawn) <= LONGEST
    assert len(set(drawn)) > 50


def test_equal_seeds_give_equal_requests(
    items: list[WorkItem],
) -> None:
    assert drawn_lengths(GREEDY, vocab_size=1000) == items
    assert drawn_lengths(GREEDY, vocab_size=1000, seed=1) != items


def test_parameters_change_neither_prompts_nor_lengths(items: list[WorkItem]) -> None:
    sampling = drawn_lengths(SAMPLING, vocab_size=1000)
    assert [item.prompt_ids for item in sampling] == [item.prompt_ids for item in items]
    assert lengths(sampling) == lengths(items)


def test_prompts_have_only_words_of_the_vocabulary(items: list[WorkItem]) -> None:
    token_ids = [token_id for item in items for token_id in item.prompt_ids or ()]
    assert min(token_ids) >= 12
    assert max(token_ids) < 1000


def test_a_representative_sample_keeps_order_and_mean_length(items: list[WorkItem]) -> None:
    sample = representative(items, 8)
    assert sample == [item for item in items if item in sample]
    of_sample, of_all = ([new for _, new in lengths(part)] for part in (sample, items))
    assert sum(of_sample) / 8 == pytest.approx(sum(of_all) / len(items), rel=0.1)


def test_a_sample_as_large_as_the_workload_is_the_workload(items: list[WorkItem]) -> None:
    assert representative(items, 64) == items
    assert representative(items, 100) == items


def test_the_different_parameters_are_all_different_and_all_valid() -> None:
    assert len(DIFFERENT) == 32
    assert all(kwargs not in DIFFERENT[:number] for number, kwargs in enumerate(DIFFERENT))
    _, encoder = EngineBench("tiny", device="cpu").load()
    for number, item in enumerate(equal_lengths(DIFFERENT, vocab_size=200)):
        request = to_request(encoder, str(number), item)
        assert request.params.num_return_sequences == 1
        assert request.params.eos_token_ids == ()


def test_the_engine_benchmark_reads_the_files(tmp_path: Path) -> None:
    write_workloads(tmp_path / "new", vocab_size=1000, requests=5)
    written = {path.stem: read_workload(path) for path in (tmp_path / "new").iterdir()}
    assert written["greedy"] == drawn_lengths(GREEDY, vocab_size=1000, num_requests=5)
    assert written["different"] == equal_lengths(DIFFERENT, vocab_size=1000)
    assert set(written) == {"greedy", "sampling", "equal", "different"}
    assert lengths(written["equal"]) == lengths(written["different"])
