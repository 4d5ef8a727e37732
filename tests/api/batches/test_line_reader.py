"""Lines of files, whatever the parts in which the files come."""

from collections.abc import AsyncIterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from api.batches.line_reader import LineSplitter, Progress, read_lines
from shared.batches.batches import Place

MAX_BYTES = 8
contents = st.lists(st.sampled_from([b"a", b"bc", b"\n", b" ", b"\r", b"x" * 5])).map(b"".join)


def split_at(content: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    return [content[low:high] for low, high in pairwise(edges)]


@given(contents, st.lists(st.integers(0, 10_000)))
def test_lines_do_not_depend_on_the_parts(content: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter(MAX_BYTES)
    lines = [line for part in split_at(content, cuts) for line in splitter.feed(part)]
    lines += splitter.finish()
    expected = content.split(b"\n")
    expected = expected if expected[-1] else expected[:-1]
    assert lines == [line if len(line) <= MAX_BYTES else None for line in expected]
    assert splitter.offset == len(content)


@given(contents, st.lists(st.integers(0, 10_000)), st.integers(0, 100))
async def test_reading_can_begin_at_the_place_of_any_line(
    content: bytes, cuts: list[int], skipped: int
) -> None:
    async def parts(offset: int) -> AsyncIterator[bytes]:
        for part in split_at(content[offset:], cuts):
            yield part

    raw = [one async for one in read_lines(parts(0), Place(), MAX_BYTES)]
    assert [one.place.line for one in raw] == list(range(len(raw)))
    start = raw[skipped % len(raw)].place if raw else Place()
    again = [one async for one in read_lines(parts(start.offset), start, MAX_BYTES)]
    assert [(one.place, one.end, one.data) for one in again] == [
        (one.place, one.end, one.data) for one in raw[start.line :]
    ]


def test_progress_reaches_the_first_line_without_a_result() -> None:
    progress = Progress(Place(), bytes([0b0100_0000]))
    assert (progress.has_result(0), progress.has_result(1)) == (False, True)
    assert not progress.has_result(8)
    progress.begin(Place(0, 0), Place(1, 10))
    progress.skip(Place(2, 20))
    progress.begin(Place(2, 20), Place(3, 30))
    progress.end(2)
    assert progress.reached == Place(0, 0)
    progress.end(0)
    assert progress.reached == Place(3, 30) and progress.is_idle


def test_progress_of_two_readers_reaches_the_first_line_of_the_slower_one() -> None:
    progress = Progress(Place(), b"", num_readers=2)
    progress.skip(Place(1, 10), reader=1)
    progress.begin(Place(1, 10), Place(2, 20), reader=1)
    progress.end(1)
    assert (progress.next, progress.reached) == (Place(0, 0), Place(0, 0))
    progress.begin(Place(0, 0), Place(1, 10), reader=0)
    progress.skip(Place(2, 20), reader=0)
    assert (progress.next, progress.reached) == (Place(2, 20), Place(0, 0))
    progress.end(0)
    assert progress.reached == Place(2, 20)
