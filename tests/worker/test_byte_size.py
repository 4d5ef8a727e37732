"""Sizes of memory, read and written."""

import pytest

from worker.byte_size import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("80GiB", 80 * 2**30),
        ("24 GB", 24 * 10**9),
        ("1.5KiB", 1536),
        (" 512 MiB ", 2**29),
        ("1TiB", 2**40),
        ("1234", 1234),
        ("7B", 7),
    ],
)
def test_a_size_is_read_in_the_unit_it_names(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "80gibs", "80 G", "1e9", "80GiB!"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write one as 80GiB or 24GB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["8388608TiB", "9" * 400 + "GiB"])
def test_a_size_beyond_all_machines_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a size must be less than 8 EiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(80 * 2**30, "80.0 GiB"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (1023, "1023 bytes")],
)
def test_a_size_is_written_in_the_largest_unit_that_fits(num_bytes: int, text: str) -> None:
    assert format_size(num_bytes) == text
