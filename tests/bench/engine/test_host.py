"""Measurement of the host's part of a step."""

import pytest

from bench.engine.host import MODES, PARTS, measure


@pytest.mark.parametrize("mode", MODES)
def test_every_part_of_a_step_is_measured(mode: str) -> None:
    figures = measure(3, MODES[mode], steps=1)
    assert set(figures) == {"host", *PARTS}
    assert min(figures.values()) > 0
