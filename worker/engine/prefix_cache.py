"""Finds blocks of the KV cache by the tokens they hold, and by all the tokens before those.

Plain Python; knows neither who holds a block nor which one must go.
"""

from itertools import count
from typing import NamedTuple

EMPTY_PREFIX = 0


class CachedBlock(NamedTuple):
    """A full block, and the id of the prefix that ends with it."""

    block: int
    prefix_id: int


class PrefixCache:
    """A tree of blocks: each is filed under the prefix before it and its own token ids.

    A prefix's id is given once and never again, so the key of a block tells its whole context: it
    is found by comparing tokens, and no collision of hashes can mistake one text for another.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._cached: dict[tuple[int, tuple[int, ...]], CachedBlock] = {}
        self._keys: dict[int, tuple[int, tuple[int, ...]]] = {}  # of each cached block
        self._prefix_ids = count(EMPTY_PREFIX + 1)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def match(self, root: int, token_ids: list[int]) -> list[CachedBlock]:
        """The longest cached prefix of `token_ids`, block by block; never the last token's.

        `root` is the id of the empty prefix: EMPTY_PREFIX, or a negative one for a private cache.
        """
        found: list[CachedBlock] = []
        prefix_id = root
        for end in range(self._block_size, len(token_ids), self._block_size):
            cached = self._cached.get((prefix_id, tuple(token_ids[end - self._block_size : end])))
            if cached is None:
                break
            found.append(cached)
            prefix_id = cached.prefix_id
        return found

    def add(self, prefix_id: int, token_ids: list[int], block: int) -> int:
        """File a block of `token_ids` after a prefix; returns the id of the prefix that it ends.

        Where another block already holds the same, that one stays and this one is not filed.
        """
        key = (prefix_id, tuple(token_ids))
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
        assert all(len(token_ids) == self._block_size for _, token_ids in self._cached)
