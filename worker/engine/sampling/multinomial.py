"""Multinomial sampling by inverse CDF: one uniform number per row selects a column.

Columns without weight add nothing: the result depends on the weights of the row, not on the width
of the matrix nor on other rows. A row that is no distribution gets any column.
"""

import torch

from worker.engine.sampling.tiled_scores import TILE_WIDTH, tiled


def multinomial(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Sample columns int64 [n] from softmax(`scores` float32 [n, width]).

    `uniform` float64 [n] in [0, 1) decides.
    """
    return _invert(scores.double().softmax(dim=-1), uniform)[0]


def multinomial_tiled(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Sample as `multinomial` does, from rows too wide for float64 sums over all columns.

    The number selects a tile by the weight of its columns, then a column of that tile.
    """
    tiles = tiled(scores.softmax(dim=-1), 0.0)
    tile, rest = _invert(tiles.sum(dim=-1), uniform)
    column, _ = _invert(tiles[torch.arange(len(tiles), device=tiles.device), tile], rest)
    return tile * TILE_WIDTH + column


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the column [n] where the running sum passes `uniform` of the total, and a remainder.

    The remainder [n], how far into the column's weight the sum passes, is uniform in [0, 1) again.
    """
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    # `uniform` is at most 1 - 2**-53: the target rounds to less than the total, a column passes it.
    target = uniform[:, None] * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[1] - 1)
    weight = weights.gather(-1, column)
    rest = 1.0 - (cumulative.gather(-1, column) - target) / weight
    # Rounding may make the rest of a light column negative. It is below 1: cumulative >= weight.
    return column[:, 0], rest[:, 0].clamp(min=0.0)
