"""The search by tiles finds what a search of every column finds, ties included."""

from random import Random

import pytest
import torch

from worker.engine.sampling.tiled_scores import TILE_WIDTH, TiledScores

WIDTHS = [1, TILE_WIDTH, 5 * TILE_WIDTH, 7 * TILE_WIDTH + 45]


def matrix(width: int, seed: int, num_rows: int = 9) -> torch.Tensor:
    """Rows of many kinds: plain, full of ties, nearly ruled out, ruled out."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(num_rows, width, generator=generator) * 3
    scores[1] = scores[1].round()
    scores[2] = 0.0
    scores[3, torch.rand(width, generator=generator) < 0.99] = -torch.inf
    scores[4] = -torch.inf
    scores[5] *= 1e-30
    return scores


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("seed", range(5))
def test_the_best_column_is_the_first_maximum(width: int, seed: int) -> None:
    scores = matrix(width, seed)
    tiles = TiledScores(scores)
    rows = [6, 0, 1, 2, 3, 5, 6]
    assert tiles.best().tolist() == scores.amax(dim=-1).tolist()
    first = [row.tolist().index(max(row.tolist())) for row in scores[rows]]
    assert tiles.argmax(tiles.index(rows)).tolist() == first


def test_a_row_with_nan_has_nan_for_its_best() -> None:
    scores = matrix(300, 0)
    scores[0, 299] = torch.nan
    assert TiledScores(scores).best().isnan().tolist() == [True] + [False] * 8


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("seed", range(20))
def test_the_shortlist_holds_the_k_best_and_their_ties_by_ascending_token(
    width: int, seed: int
) -> None:
    random = Random(seed)
    scores = matrix(width, seed)
    tiles = TiledScores(scores)
    rows = random.sample(range(len(scores)), random.randint(1, len(scores)))
    counts = torch.tensor([[random.randint(1, tiles.num_tiles)] for _ in rows])
    temperature = torch.tensor([[random.choice([1e-3, 0.7, 1.0, 3.1, 1e38])] for _ in rows])
    shortlist = tiles.shortlist(tiles.index(rows), counts, temperature)
    divided = scores[rows] / temperature
    for place, row in enumerate(rows):
        floor = divided[place].sort(descending=True).values[counts[place] - 1]
        wanted = (divided[place] >= floor) & (scores[row] > -torch.inf)
        is_listed = shortlist.scores[place] > -torch.inf
        listed = shortlist.token_ids[place][is_listed]
        assert listed.tolist() == sorted(set(listed.tolist()))
        assert set(wanted.nonzero()[:, 0].tolist()) <= set(listed.tolist())
        assert torch.equal(shortlist.scores[place][is_listed], scores[row][listed])
        assert is_listed.tolist() == sorted(is_listed.tolist(), reverse=True)


def test_the_shortlist_of_a_spread_row_is_short() -> None:
    scores = torch.randn(4, 500 * TILE_WIDTH, generator=torch.Generator().manual_seed(0))
    tiles = TiledScores(scores)
    counts, one = torch.full((4, 1), 50), torch.ones(4, 1)
    assert tiles.shortlist(tiles.index([0, 1, 2, 3]), counts, one).scores.shape[1] <= 128


def test_scores_that_a_temperature_makes_equal_are_all_listed() -> None:
    scores = torch.full((1, 4 * TILE_WIDTH), -1.0)
    scores[0, [3, 200, 300]] = torch.tensor([1e-3, 0.99999e-3, 0.5e-3])
    tiles = TiledScores(scores)
    huge = torch.full((1, 1), 1e38)  # quotients so small that they lose their last bits
    shortlist = tiles.shortlist(tiles.index([0]), torch.ones(1, 1, dtype=torch.int64), huge)
    divided = (scores / huge)[0]
    expected = (divided == divided.max()).nonzero()[:, 0].tolist()
    assert expected == [3, 200]
    assert shortlist.token_ids[shortlist.scores > -torch.inf].tolist() == expected


def test_a_row_keeps_its_shortlist_when_longer_rows_join() -> None:
    scores = matrix(7 * TILE_WIDTH, 1)
    tiles = TiledScores(scores)
    counts, one = torch.full((9, 1), 3), torch.ones(9, 1)
    together = tiles.shortlist(tiles.index(list(range(9))), counts, one)
    for row in range(9):
        alone = tiles.shortlist(tiles.index([row]), counts[:1], one[:1])
        width = alone.scores.shape[1]
        assert torch.equal(together.scores[row, :width], alone.scores[0])
        assert torch.equal(together.token_ids[row, :width], alone.token_ids[0])
        assert (together.scores[row, width:] == -torch.inf).all()
