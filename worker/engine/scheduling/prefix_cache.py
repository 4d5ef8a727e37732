"""Find full blocks of the KV cache by their tokens and by all tokens before them."""

from itertools import count
from typing import NamedTuple

from worker.engine.sequence import EMPTY_PREFIX, PrefixId


class BlockKey(NamedTuple):
    """The content of a full block: its tokens, and the id of the prefix before them."""

    prefix_id: PrefixId
    token_ids: tuple[int, ...]


class CachedBlock(NamedTuple):
    block: int
    prefix_id: PrefixId  # of the prefix that ends with the block


class PrefixCache:
    """A tree of blocks, each under the id of the prefix before it and its own tokens.

    The id of a prefix is never reused, so the key of a block stands for its whole context. Blocks
    are compared by tokens: a hash collision cannot confuse two texts.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._cached: dict[BlockKey, CachedBlock] = {}
        self._keys: dict[int, BlockKey] = {}  # of cached blocks
        self._prefix_ids = count(EMPTY_PREFIX + 1)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def match(self, prefix_id: PrefixId, token_ids: list[int], start: int) -> list[CachedBlock]:
        """Return the longest run of cached blocks from token `start` on, after a prefix.

        The block of the last token never matches: that token must be computed to yield logits.
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
        """Add a block; return the id of the prefix that ends with it.

        If a cached block already holds the same, that one stays and this one is not added.
        """
        cached = self._cached.get(key)
        if cached is None:
            cached = self._cached[key] = CachedBlock(block, next(self._prefix_ids))
            self._keys[block] = key
        return cached.prefix_id

    def remove(self, block: int) -> None:
        """Remove a block, if it is cached. Blocks after it can no longer be found."""
        key = self._keys.pop(block, None)
        if key is not None:
            del self._cached[key]

    def check_integrity(self) -> None:
        """Assert that blocks and keys refer to each other."""
        assert {cached.block: key for key, cached in self._cached.items()} == self._keys
        assert all(len(key.token_ids) == self._block_size for key in self._cached)
