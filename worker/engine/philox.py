"""Philox4x32-10: random numbers computed from a key and a counter, with no state to keep.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))  # golden ratio, sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)

Words = NDArray[np.uint32]


def philox4x32(counter: Words, key: Words) -> Words:
    """Map counters uint32 [4, n] under keys uint32 [2, n] to random words uint32 [4, n]."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], x0)
        high1, low1 = _multiply(_MULTIPLIERS[1], x2)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return np.stack([x0, x1, x2, x3])


def uniforms(
    seeds: Sequence[int], sequences: Sequence[int], positions: Sequence[int]
) -> NDArray[np.float64]:
    """One float64 in [0, 1) with 53 random bits for each (seed, sequence, position).

    The seed, below 2**64, is the key; (position, sequence, 0, 0) is the counter.
    """
    zeros = np.zeros(len(seeds), dtype=np.uint32)
    counter = np.stack(
        [np.array(positions, dtype=np.uint32), np.array(sequences, dtype=np.uint32), zeros, zeros]
    )
    word0, word1, _, _ = philox4x32(counter, np.stack(_split(np.array(seeds, dtype=np.uint64))))
    high, low = word0 >> np.uint32(5), word1 >> np.uint32(6)  # 27 and 26 bits
    result: NDArray[np.float64] = high * 2.0**-27 + low * 2.0**-53
    return result


def _multiply(multiplier: np.uint64, words: Words) -> tuple[Words, Words]:
    """High and low halves of the 64-bit products."""
    low, high = _split(multiplier * words.astype(np.uint64))
    return high, low


def _split(values: NDArray[np.uint64]) -> tuple[Words, Words]:
    return (values & _LOW).astype(np.uint32), (values >> _SHIFT).astype(np.uint32)
