"""Derandomized property tests draw the same examples whatever tests ran before."""

import importlib
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

ODD = 123_454_321


def drawn() -> list[int]:
    values: list[int] = []

    @settings(max_examples=300, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.integers())
    def look(value: int) -> None:
        values.append(value)

    look()
    return values


def test_constants_of_loaded_modules_are_not_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drawn()
    (tmp_path / "late_module.py").write_text(f"numbers = [{ODD}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("late_module")
    after = drawn()
    assert after == before
    assert ODD not in after
