"""Draws columns by inverse CDF: one uniform number per row, the columns in their order.

Columns without weight add nothing, so a draw depends on the weights that a row has, not on how
wide the matrix is nor on its other rows. A row that is no distribution gets any column.
"""

import torch

from worker.engine.sampling.tiled_scores import TILE_WIDTH, tiled


def draw(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Columns int64 [n] from softmax(`scores` float32 [n, width]), by `uniform` [n] in [0, 1)."""
    return _invert(scores.double().softmax(dim=-1), uniform)[0]


def draw_wide(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """As `draw`, for rows so wide that float64 sums over all their columns would cost too much.

    First a tile is drawn, by the weight of its columns, then a column of it.
    """
    tiles = tiled(scores.softmax(dim=-1), 0.0)
    tile, rest = _invert(tiles.sum(dim=-1), uniform)
    column, _ = _invert(tiles[torch.arange(len(tiles), device=tiles.device), tile], rest)
    return tile * TILE_WIDTH + column


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The column [n] where the running sum passes `uniform` of the total, and how far into it.

    The latter, in [0, 1) of the column's weight, is uniform again.
    """
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    # At most (1 - 2**-53) of the total, which rounds to less than it: some column exceeds that.
    target = uniform[:, None] * cumulative[:, -1:]
    column = torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[1] - 1)
    weight = weights.gather(-1, column)
    rest = 1.0 - (cumulative.gather(-1, column) - target) / weight
    # Rounding may take it below 0 in a light column, never to 1: cumulative >= weight in any.
    return column[:, 0], rest[:, 0].clamp(min=0.0)
