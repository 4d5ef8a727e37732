"""Decode a request body with a content coding (RFC 9110, 8.4), piece by piece and within limits."""

import zlib

from api.http.headers import split
from shared.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType

GZIP, DEFLATE, IDENTITY = "gzip", "deflate", "identity"
ALIASES = {"x-gzip": GZIP}
MAX_MEMBERS = {GZIP: 100, DEFLATE: 1}  # an empty member costs time and adds no bytes

GZIP_WBITS = 16 + zlib.MAX_WBITS
ZLIB_WBITS, RAW_WBITS = zlib.MAX_WBITS, -zlib.MAX_WBITS


class Decoder:
    """Decode one body: gzip with several members, or deflate with or without zlib's header."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._held = b""  # the first byte of a member; its format shows in the first two
        self._member: zlib._Decompress | None = None
        self._num_members = 0

    def decode(self, piece: bytes, max_bytes: int) -> bytes:
        """Return the decoded bytes of `piece`. Raises PayloadTooLarge beyond `max_bytes`."""
        data, self._held = self._held + piece, b""
        decoded = bytearray()
        while data:
            if self._member is None and len(data) < 2:
                self._held = data
                break
            member = self._member or self._begin_member(data)
            decoded += self._inflate(member, data, max_bytes + 1 - len(decoded))
            if len(decoded) > max_bytes:
                raise too_large(max_bytes)
            self._member, data = (None if member.eof else member), member.unused_data
        return bytes(decoded)

    def finish(self) -> None:
        """Raise BadRequest if the data is incomplete."""
        if self._held or self._member or not self._num_members:
            raise BadRequest(f"must be complete {self._coding} data", field="body")

    def _begin_member(self, data: bytes) -> "zlib._Decompress":
        most = MAX_MEMBERS[self._coding]
        if self._num_members == most:
            plural = "s" * (most > 1)
            raise BadRequest(
                f"must be {self._coding} data of at most {most} member{plural}", field="body"
            )
        self._num_members += 1
        if self._coding == GZIP:
            return zlib.decompressobj(GZIP_WBITS)
        has_head = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
        return zlib.decompressobj(ZLIB_WBITS if has_head else RAW_WBITS)

    def _inflate(self, member: "zlib._Decompress", data: bytes, max_bytes: int) -> bytes:
        try:
            return member.decompress(data, max_bytes)
        except zlib.error:
            raise BadRequest(f"must be {self._coding} data", field="body") from None


def decoder_of(headers: list[str]) -> Decoder | None:
    """Return the decoder for the `Content-Encoding` headers of a request; None without a coding.

    Raises UnsupportedMediaType for nested codings: they multiply the work that a small body
    causes, and clients send none.
    """
    names = [name.strip().lower() for header in headers for name in split(header, ",")]
    codings = [ALIASES.get(name, name) for name in names if name not in ("", IDENTITY)]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in MAX_MEMBERS:
        raise UnsupportedMediaType(
            f"must be one of gzip, deflate and identity, got {', '.join(codings)[:40]!r}",
            field="Content-Encoding",
            headers={"Accept-Encoding": ", ".join((GZIP, DEFLATE, IDENTITY))},
        )
    return Decoder(codings[0])


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"must be at most {max_bytes} bytes, decompressed", field="body")
