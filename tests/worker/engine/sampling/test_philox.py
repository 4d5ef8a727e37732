"""The generator against its published answers, and the shape of its uniforms."""

import numpy as np
import pytest

from worker.engine.sampling.philox import philox4x32, uniforms

# counter, key, answer: the philox4x32-10 rows of Random123's known-answer file.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def column(text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    return np.array(words(text), dtype=np.uint64)[:, None]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, answer: str) -> None:
    assert philox4x32(column(counter), column(key))[:, 0].tolist() == words(answer)


def test_a_random_number_does_not_depend_on_the_others_of_its_batch() -> None:
    seeds, sequences, positions = [7, 2**63 - 1, 0, 7], [0, 3, 1, 1], [0, 5, 2, 0]
    together = uniforms(seeds, sequences, positions).tolist()
    alone = [
        uniforms([s], [i], [p])[0] for s, i, p in zip(seeds, sequences, positions, strict=True)
    ]
    assert together == alone


def test_seed_sequence_and_position_each_change_the_draw() -> None:
    draws = uniforms([1, 2, 1 + 2**32, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1])
    assert len(set(draws.tolist())) == 5


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    count = 20_000
    draws = np.sort(uniforms([42] * count, [0] * count, range(count)))
    assert draws[0] >= 0.0
    assert draws[-1] < 1.0
    # Kolmogorov-Smirnov at p = 0.001: the seed is fixed, so this passes always or never.
    distance = np.abs(draws - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / np.sqrt(count)
