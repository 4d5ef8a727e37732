"""Read and check the lines of a file one after the other, without holding the file in memory."""

from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b

from api.openai.batches.lines import MAX_LINES, InvalidLine, RequestLine, model_of, parse_line
from api.openai.batches.objects import LineError
from shared.batches.batches import Place

MAX_ERRORS = 100  # of a file; the check ends with the last of them


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line with content."""

    number: int  # in the part of the file that was read, from 1; blank lines count
    place: Place  # the lines with content are counted from 0
    end: Place  # of the line that follows
    data: bytes | None  # None: longer than `max_bytes`
    max_bytes: int


class LineSplitter:
    """Split parts of a file into lines, of which it keeps only the last, incomplete one."""

    def __init__(self, max_bytes: int, offset: int = 0) -> None:
        """Begin at a byte of the file; lines of more than `max_bytes` are not kept."""
        self.offset = offset  # of the current line
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._length = 0

    def feed(self, part: bytes) -> Iterator[bytes | None]:
        """Yield each line that ends in this part, without its break; None if it is too long.

        While a line is yielded, `offset` is that of the next line.
        """
        *ended, rest = part.split(b"\n")
        for piece in ended:
            self._add(piece)
            yield self._take(1)
        self._add(rest)

    def finish(self) -> Iterator[bytes | None]:
        """Yield the last line, if the file does not end with a line break."""
        if self._length:
            yield self._take(0)

    def _add(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length <= self._max_bytes:
            self._buffer += piece

    def _take(self, line_break: int) -> bytes | None:
        line = bytes(self._buffer) if self._length <= self._max_bytes else None
        self.offset += self._length + line_break
        self._buffer.clear()
        self._length = 0
        return line


async def read_lines(
    parts: AsyncIterator[bytes], start: Place, max_bytes: int
) -> AsyncIterator[RawLine]:
    """Yield the lines that are not blank, of `parts` that begin at `start`."""
    splitter = LineSplitter(max_bytes, start.offset)
    counter = _Counter(start, max_bytes)
    async for part in parts:
        for line in splitter.feed(part):
            if (raw := counter.count(line, splitter.offset)) is not None:
                yield raw
    for line in splitter.finish():
        if (raw := counter.count(line, splitter.offset)) is not None:
            yield raw


class _Counter:
    """Number the lines of a file."""

    def __init__(self, start: Place, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._number = 0
        self._place = start

    def count(self, line: bytes | None, end_offset: int) -> RawLine | None:
        """Return the line with its place; None for a blank line."""
        self._number += 1
        place = self._place
        if line is not None:
            if place.offset == 0:
                line = line.removeprefix(BOM_UTF8)
            if not line.strip():
                self._place = Place(place.line, end_offset)
                return None
        self._place = Place(place.line + 1, end_offset)
        return RawLine(self._number, place, self._place, line, self._max_bytes)


@dataclass(slots=True)
class Checked:
    """What a check found."""

    total: int = 0  # requests
    model: str | None = None  # of the first request that names one
    errors: list[LineError] = field(default_factory=list)


def request_of(raw: RawLine, endpoint: str) -> RequestLine:
    """Return the request of a line. Raises InvalidLine."""
    if raw.data is None:
        raise InvalidLine("line_too_long", f"the line must have at most {raw.max_bytes} bytes")
    return parse_line(raw.data, endpoint)


def reader_of(raw: RawLine, endpoint: str, models: tuple[str, ...]) -> int:
    """Return the index of the reader that submits a line: that of its model in `models`.

    Lines without a name go to the first reader, lines with another name to the last.
    """
    name = None
    if models:
        with suppress(InvalidLine):
            name = model_of(request_of(raw, endpoint))
    if name is None:
        return 0
    return models.index(name) if name in models else len(models)


async def check_lines(lines: AsyncIterator[RawLine], endpoint: str) -> Checked:
    """Check all lines of a file, without keeping them; of names it keeps digests."""
    checked, seen = Checked(), set[bytes]()
    async for raw in lines:
        if raw.place.line >= MAX_LINES:
            limit = f"the file must have at most {MAX_LINES} requests"
            checked.errors.append(InvalidLine("too_many_requests", limit).at(None))
            break
        checked.total += 1
        try:
            line = request_of(raw, endpoint)
            digest = blake2b(line.custom_id.encode(), digest_size=16).digest()
            if digest in seen:
                reason = "custom_id must differ from that of every earlier line"
                raise InvalidLine("duplicate_custom_id", reason, "custom_id")
            seen.add(digest)
            checked.model = checked.model or model_of(line)
        except InvalidLine as error:
            checked.errors.append(error.at(raw.number))
        if len(checked.errors) >= MAX_ERRORS:
            break
    if not checked.total:
        checked.errors.append(InvalidLine("empty_file", "the file must have a request").at(None))
    return checked


class Progress:
    """The lines of one batch; all lines before `reached` have a result."""

    def __init__(self, start: Place, with_results: bytes, num_readers: int = 1) -> None:
        """Begin at `start`; `with_results` is the bitmap of `BatchStore.lines_with_results`.

        Each reader goes through the whole file, and begins or skips every line.
        """
        self._next = [start] * num_readers
        self._with_results = with_results
        self._under_way: dict[int, Place] = {}

    def has_result(self, line: int) -> bool:
        """Return whether the line had a result when this run began."""
        byte, bit = divmod(line, 8)
        if byte >= len(self._with_results):
            return False
        return bool(self._with_results[byte] & (0x80 >> bit))

    def begin(self, place: Place, end: Place, reader: int = 0) -> None:
        """Note that the line at `place` is under way; the next one begins at `end`."""
        self._under_way[place.line] = place
        self._next[reader] = end

    def skip(self, end: Place, reader: int = 0) -> None:
        """Continue at `end`: the line before it has a result, or another reader submits it."""
        self._next[reader] = end

    def end(self, line: int) -> None:
        """Note that the line's result is written."""
        del self._under_way[line]

    @property
    def is_idle(self) -> bool:
        return not self._under_way

    @property
    def next(self) -> Place:
        """Return the first line that a reader has not seen."""
        return min(self._next, key=_line)

    @property
    def reached(self) -> Place:
        return min((*self._under_way.values(), *self._next), key=_line)


def _line(place: Place) -> int:
    return place.line
