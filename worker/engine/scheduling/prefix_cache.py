"""Finds blocks of the KV cache by the tokens they hold, and by all the tokens before those.

Plain Python; knows neither who holds a block nor which one must go.
"""

from itertools import count
from typing import NamedTuple

PrefixId = int | str
EMPTY_PREFIX = 0  # of the model itself; that of an adapter is its name


class BlockKey(NamedTuple):
    """What a full block holds: its own tokens, after a prefix."""

    prefix_id: PrefixId
    token_ids: tuple[int, ...]


class CachedBlock(NamedTuple):
    """A full block, and the id of the prefix that ends with it."""

    block: int
    prefix_id: PrefixId


class PrefixCache:
    """A tree of blocks: each is filed under the prefix before it and its own token ids.

    A prefix's id is given once and never again, so the key of a block tells its whole context: it
    is found by comparing tokens, and no collision of hashes can mistake one text for another.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._cached: dict[BlockKey, CachedBlock] = {}
        self._keys: dict[int, BlockKey] = {}  # of each cached block
        self._prefix_ids = count(EMPTY_PREFIX + 1)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def match(self, prefix_id: PrefixId, token_ids: list[int], start: int) -> list[CachedBlock]:
        """The longest run of cached blocks from token `start` on, what is before it given.

        Never the block of the last token, which must be computed to yield logits.
        """
        found: list[CachedBlock] = []
        for end in range(start + self._block_size, len(token_ids), self._block_size):
            key = BlockKey(prefix_id, tuple(token_ids[end - self._block_size : end]))
            cached = self._cached.get(key)
            if cached is None:
                break
            found.append(cached)
            prefix_id = cached.prefix_id
        return found

    def add(self, key: BlockKey, block: int) -> PrefixId:
        """File a block; returns the id of the prefix that it ends.

        Where another block already holds the same, that one stays and this one is not filed.
        """
        cached = self._cached.get(key)
        if cached is None:
            cached = self._cached[key] = CachedBlock(block, next(self._prefix_ids))
            self._keys[block] = key
        return cached.prefix_id

    def remove(self, block: int) -> None:
        """Forget a block, if it is cached; what follows its prefix is not found any more."""
        key = self._keys.pop(block, None)
        if key is not None:
            del self._cached[key]

    def check_integrity(self) -> None:
        """Assert that blocks and keys name each other."""
        assert {cached.block: key for key, cached in self._cached.items()} == self._keys
        assert all(len(key.token_ids) == self._block_size for key in self._cached)
