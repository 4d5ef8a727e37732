"""Philox4x32-10: random numbers computed from a key and a counter, without state.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = np.arange(10, dtype=np.uint64)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)  # golden ratio, sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)

Words = NDArray[np.uint64]


def philox4x32(counter: Words, key: Words) -> Words:
    """Map counters [4, n] under keys [2, n] to random words [4, n], all of 32 bits in uint64."""
    even, odd = counter[::2], counter[1::2]
    for round_key in (key + _ROUNDS[:, None, None] * _WEYL) & _LOW:
        products = _MULTIPLIERS * even
        even = (products >> _SHIFT)[::-1] ^ odd ^ round_key
        odd = (products & _LOW)[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


def uniforms(
    seeds: Sequence[int], sequences: Sequence[int], positions: Sequence[int]
) -> NDArray[np.float64]:
    """Return a float64 in [0, 1) with 53 random bits for each (seed, sequence, position).

    The seed, below 2**64, is the key; (position, sequence, 0, 0) is the counter.
    """
    counter = np.zeros((4, len(seeds)), dtype=np.uint64)
    counter[0], counter[1] = positions, sequences
    keys = np.array(seeds, dtype=np.uint64)
    word0, word1, _, _ = philox4x32(counter, np.stack([keys & _LOW, keys >> _SHIFT]))
    high, low = word0 >> np.uint64(5), word1 >> np.uint64(6)  # 27 and 26 bits
    result: NDArray[np.float64] = high * 2.0**-27 + low * 2.0**-53
    return result
