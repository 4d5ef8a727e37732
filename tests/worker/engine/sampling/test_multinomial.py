"""Inverse CDF sampling: the right column, never an impossible one, in proportion."""

from collections.abc import Callable

import pytest
import torch

from worker.engine.sampling.multinomial import multinomial, multinomial_tiled
from worker.engine.sampling.tiled_scores import TILE_WIDTH

Draw = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
BELOW_ONE = 1.0 - 2.0**-53
BOTH = pytest.mark.parametrize("draw_by", [multinomial, multinomial_tiled])


def rows(num_rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed)) * 3


def numbers(count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@BOTH
@pytest.mark.parametrize("width", [1, 7, 128, 129, 1000])
def test_the_running_sum_of_probabilities_passes_the_number_at_the_column(
    draw_by: Draw, width: int
) -> None:
    count = 2_000
    scores = rows(1, width).expand(count, -1)
    columns = draw_by(scores, numbers(count))
    after = scores[0].double().softmax(dim=-1).cumsum(dim=-1)
    before = after - scores[0].double().softmax(dim=-1)
    # float32 weights move a border by less than this
    assert (before[columns] < numbers(count) + 1e-6).all()
    assert (numbers(count) < after[columns] + 1e-6).all()
    assert columns.tolist() == sorted(columns.tolist())


@BOTH
@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 150), (BELOW_ONE, 799)])
def test_banned_columns_are_not_sampled_at_the_edges(
    draw_by: Draw, uniform: float, expected: int
) -> None:
    scores = rows(100, 1000)
    scores[:, :150] = scores[:, 800:] = -torch.inf
    columns = draw_by(scores, torch.full((100,), uniform, dtype=torch.float64))
    assert set(columns.tolist()) == {expected}


def test_only_possible_columns_are_sampled_at_the_border_of_a_light_tile() -> None:
    scores = rows(2_000, 3 * TILE_WIDTH)
    scores[:, TILE_WIDTH : 2 * TILE_WIDTH] -= 36.0  # so light that the running sums are rough there
    scores[:, ::TILE_WIDTH] = scores[:, TILE_WIDTH - 1 :: TILE_WIDTH] = -torch.inf
    sums = scores.softmax(dim=-1).view(2_000, 3, TILE_WIDTH).sum(dim=-1).double().cumsum(dim=-1)
    border = sums[:, 0] / sums[:, 2]
    for uniform in (border, border.nextafter(0 * border), border.nextafter(1 + border)):
        columns = multinomial_tiled(scores, uniform)
        assert (scores.gather(-1, columns[:, None]) > -torch.inf).all()


@BOTH
def test_holes_between_possible_columns_are_never_drawn(draw_by: Draw) -> None:
    scores = rows(1, 1000)
    scores[0, torch.rand(1000, generator=torch.Generator().manual_seed(1)) < 0.95] = -torch.inf
    columns = draw_by(scores.expand(5_000, -1), numbers(5_000))
    assert (scores[0, columns] > -torch.inf).all()


@BOTH
def test_a_draw_depends_on_no_other_row_and_not_on_ruled_out_columns(draw_by: Draw) -> None:
    scores = rows(64, 448)
    uniform = numbers(64)[torch.randperm(64, generator=torch.Generator().manual_seed(2))]
    together = draw_by(scores, uniform)
    wider = torch.cat([scores, torch.full((64, 640), -torch.inf)], dim=-1)
    assert torch.equal(draw_by(wider, uniform), together)
    for row in range(64):
        assert draw_by(scores[row : row + 1], uniform[row : row + 1]) == together[row]


@BOTH
def test_a_row_that_is_no_distribution_gets_a_column_that_exists(draw_by: Draw) -> None:
    scores = torch.stack([torch.full((300,), value) for value in (torch.nan, -torch.inf, 0.0)])
    columns = draw_by(scores, torch.full((3,), 0.5, dtype=torch.float64))
    assert (columns >= 0).all()
    assert columns[2] in (149, 150)
