"""Updates reach the rows they belong to, and no others."""

import torch

from worker.model.lora import LayerUpdates, LowRank


def random_update(rank: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(rank, 6, generator=generator), torch.randn(5, rank, generator=generator)
    )


def test_each_row_gets_the_update_of_its_own_adapter_and_others_stay_bit_for_bit() -> None:
    one, other = random_update(2, seed=0), random_update(3, seed=1)
    input, before = torch.randn(7, 6), torch.randn(7, 5)
    updates = LayerUpdates(
        [({"dense": one}, torch.tensor([1, 4])), ({"dense": other}, torch.tensor([2]))]
    )
    after = updates.add("dense", input, before.clone())
    expected = before.clone()
    expected[[1, 4]] += input[[1, 4]] @ (one.up @ one.down).T
    expected[2] += input[2] @ (other.up @ other.down).T
    torch.testing.assert_close(after, expected)
    untouched = [0, 3, 5, 6]
    assert torch.equal(after[untouched], before[untouched])


def test_a_layer_without_an_update_stays_as_it_is() -> None:
    updates = LayerUpdates([({"dense": random_update(2, seed=0)}, torch.tensor([0, 1]))])
    before = torch.randn(2, 5)
    assert torch.equal(updates.add("query_key_value", torch.randn(2, 6), before.clone()), before)


def test_infinite_values_stay_in_their_row() -> None:
    updates = LayerUpdates([({"dense": random_update(2, seed=0)}, torch.tensor([0, 1]))])
    input = torch.ones(3, 6)
    input[0] = torch.nan
    after = updates.add("dense", input, torch.zeros(3, 5))
    assert after[0].isnan().all()
    assert after[1:].isfinite().all()
