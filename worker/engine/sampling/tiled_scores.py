"""Find the best columns of wide score matrices with one quick pass over them.

The pass takes the maximum of each tile of adjacent columns. The best columns lie in a few tiles,
and only those are read again. Exact, ties included.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad

from worker.engine.sampling.sorting import below, indices_of, kth_best
from worker.model.device_map import upload

TILE_WIDTH = 128
_MIN_WIDTH = 64  # a multiple of any SIMD width: padding cannot change the order of a row's sum


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The best columns of each row, by ascending token id; shorter rows are padded with -inf."""

    scores: torch.Tensor  # float32 [n, width]
    token_ids: torch.Tensor  # int64 [n, width]


class TiledScores:
    """All scores [n, vocab] in tiles [n, num_tiles, TILE_WIDTH], with maxima [n, num_tiles]."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores
        self.tiles = tiled(scores, -torch.inf)
        self.maxima = self.tiles.amax(dim=-1)

    @property
    def num_tiles(self) -> int:
        return self.maxima.shape[1]

    def index(self, rows: list[int]) -> torch.Tensor:
        """Return the rows as an index tensor, int64 [m]."""
        return upload([np.array(rows, dtype=np.int64)], self.scores.device)[0]

    def rows(self, rows: list[int]) -> torch.Tensor:
        """Return a copy of some rows, [m, vocab]."""
        return self.scores.index_select(0, self.index(rows))

    def best(self) -> torch.Tensor:
        """Return the best score of each row, [n]; nan where the row holds nan."""
        return self.maxima.amax(dim=-1)

    def argmax(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the first of the best columns of each of `rows` int64 [m], int64 [m]."""
        tile = self.maxima[rows].argmax(dim=-1)
        return tile * TILE_WIDTH + self.tiles[rows, tile].argmax(dim=-1)

    def shortlist(
        self, rows: torch.Tensor, counts: torch.Tensor, temperature: torch.Tensor
    ) -> Shortlist:
        """Return the columns that may be among the `counts` best of `rows` int64 [m], with ties.

        `counts` int64 [m, 1] is at most `num_tiles`. The order is that after division by
        `temperature` [m, 1], which may round different scores to the same; the returned scores
        are not divided.
        """
        maxima = self.maxima[rows] / temperature
        # k tiles have a maximum of at least the k-th best maximum, so k columns reach this floor.
        # The clamp keeps it above -inf, the score of banned tokens.
        floor = kth_best(maxima, counts).clamp_(min=torch.finfo(maxima.dtype).min)
        row_of_tile, tile = indices_of(~below(maxima, floor))
        scores = self.tiles.flatten(0, 1).index_select(0, rows[row_of_tile] * self.num_tiles + tile)
        index, column = indices_of(~below(scores / temperature[row_of_tile], floor[row_of_tile]))
        token_ids = tile[index] * TILE_WIDTH + column
        return _pack(row_of_tile[index], token_ids, scores[index, column], len(rows))


def tiled(matrix: torch.Tensor, filler: float) -> torch.Tensor:
    """View [n, width] as [n, num_tiles, TILE_WIDTH], padded with `filler`."""
    if missing := -matrix.shape[1] % TILE_WIDTH:
        matrix = pad(matrix, (0, missing), value=filler)
    return matrix.view(len(matrix), -1, TILE_WIDTH)


def _pack(
    rows: torch.Tensor, token_ids: torch.Tensor, scores: torch.Tensor, num_rows: int
) -> Shortlist:
    """Arrange scores [k], sorted by row and token, in rows of equal width."""
    # Not by bincount, whose size a GPU's host would wait for.
    bounds = torch.searchsorted(rows, torch.arange(num_rows + 1, device=rows.device))
    starts, counts = bounds[:-1], bounds.diff()
    width = -(-int(counts.max()) // _MIN_WIDTH) * _MIN_WIDTH or _MIN_WIDTH
    columns = torch.arange(len(rows), device=rows.device) - starts[rows]
    shape = (num_rows, width)
    shortlist = Shortlist(scores.new_full(shape, -torch.inf), token_ids.new_zeros(shape))
    shortlist.scores[rows, columns] = scores
    shortlist.token_ids[rows, columns] = token_ids
    return shortlist
