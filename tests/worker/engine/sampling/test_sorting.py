"""Sorting and searching columns against torch's own, ties and odd numbers included."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.sampling.sorting import (
    ascending,
    below,
    best_columns,
    indices_of,
    kth_best,
    order_of_distances,
)

# Few values, so that ties are many; the extremes that scores may hold.
SCORES = st.sampled_from([-torch.inf, -3e38, -2.5, -1.0, -0.0, 0.0, 1e-45, 1.0, 2.5, torch.inf])
DISTANCES = st.sampled_from([0.0, 1e-45, 0.5, 1.0, 2.5, 3e38, torch.inf])


def matrices(values: st.SearchStrategy[float]) -> st.SearchStrategy[torch.Tensor]:
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 70))
    return shapes.flatmap(
        lambda shape: st.lists(
            st.lists(values, min_size=shape[1], max_size=shape[1]),
            min_size=shape[0],
            max_size=shape[0],
        )
    ).map(torch.tensor)


@given(matrices(SCORES))
def test_values_ascend_as_torch_sorts_them(scores: torch.Tensor) -> None:
    assert torch.equal(ascending(scores), scores.sort(dim=-1).values)


@given(matrices(SCORES | st.just(torch.nan)))
def test_the_best_column_is_the_first_that_no_other_exceeds(scores: torch.Tensor) -> None:
    best, columns = best_columns(scores)
    for row, score, column in zip(scores.tolist(), best.tolist(), columns.tolist(), strict=True):
        invalid = [index for index, value in enumerate(row) if math.isnan(value)]
        if invalid:
            assert math.isnan(score)
            assert column == invalid[0]
        else:
            assert (score, column) == (max(row), row.index(max(row)))


@given(matrices(SCORES), st.data())
def test_the_kth_best_is_what_k_columns_reach(scores: torch.Tensor, data: st.DataObject) -> None:
    width = scores.shape[1]
    counts = torch.tensor([[data.draw(st.integers(1, width))] for _ in scores])
    best = scores.sort(dim=-1, descending=True).values
    assert torch.equal(kth_best(scores, counts), best.gather(-1, counts - 1))


@given(matrices(DISTANCES))
def test_equal_distances_keep_the_order_of_their_columns(distances: torch.Tensor) -> None:
    expected = torch.sort(distances, dim=-1, stable=True).indices
    assert torch.equal(order_of_distances(distances), expected)


@given(matrices(SCORES))
def test_below_compares_as_torch_does(scores: torch.Tensor) -> None:
    floor = scores[:, :1]
    assert torch.equal(below(scores, floor), scores < floor)
    assert torch.equal(below(floor, scores), floor < scores)


def test_nothing_is_below_nan_and_nan_is_below_nothing() -> None:
    nan = torch.tensor([[torch.nan]])
    scores = torch.tensor([[-torch.inf, 0.0, torch.nan, torch.inf]])
    assert not below(scores, nan).any()
    assert not below(nan, scores).any()


@given(matrices(st.booleans()))
def test_indices_of_true_values_come_row_by_row(mask: torch.Tensor) -> None:
    rows, columns = indices_of(mask)
    assert torch.equal(torch.stack([rows, columns], dim=-1), mask.nonzero())
