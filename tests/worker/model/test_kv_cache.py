"""Copying whole blocks of the KV cache."""

import torch

from worker.model.kv_cache import KVCache


def test_blocks_are_copied_in_all_layers_and_all_others_stay() -> None:
    kv_cache = KVCache(
        num_layers=2,
        num_blocks=5,
        block_size=3,
        num_kv_heads=2,
        head_dim=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    before = []
    for pool in (kv_cache.keys, kv_cache.values):
        pool.normal_(generator=torch.Generator().manual_seed(0))
        before.append(pool.clone())
    kv_cache.copy_blocks([])
    kv_cache.copy_blocks([(1, 4), (1, 2)])
    for pool, old in zip((kv_cache.keys, kv_cache.values), before, strict=True):
        blocks, old_blocks = pool.split(3, dim=1), old.split(3, dim=1)
        assert [
            next(i for i, old_block in enumerate(old_blocks) if torch.equal(block, old_block))
            for block in blocks
        ] == [0, 1, 1, 3, 1]
