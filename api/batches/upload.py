"""Read a file and its properties from a multipart body, without holding the file in memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from api.http.errors import parameter_error
from api.openai.batches.request import UploadFields
from shared.batches.files import FileProperties
from shared.errors import BadRequest, InvalidParameter, PayloadTooLarge, UnsupportedMediaType

MULTIPART = "multipart/form-data"
PART_TIMEOUT_S = 30.0  # for the next part of the body
MAX_FIELD_BYTES = 1024  # of a value other than the file, or of a header of a part
MAX_FIELDS = 16
MAX_NAME = 255  # characters of a file's name


class Upload:
    """The body of `POST /v1/files`."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        """Raise a ClientError if the request's headers announce no such body."""
        kind, options = parse_options_header(request.headers.get("content-type"))
        boundary = options.get(b"boundary", b"")
        if kind.decode("latin-1").lower() != MULTIPART or not boundary:
            raise UnsupportedMediaType(
                f"the body must be {MULTIPART} with a boundary", headers={"Accept": MULTIPART}
            )
        self._request = request
        self._max_bytes = max_bytes
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._num_bytes = 0
        self._name = ""  # of the current part
        self._is_file = False
        self._header = b"", b""
        self._value = bytearray()
        self._ready: list[bytes] = []  # of the file
        self._has_ended = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    async def file(self) -> AsyncIterator[bytes]:
        """Yield the parts of the file as they come. Raises a ClientError for an invalid body."""
        body = self._request.stream()
        while True:
            try:
                async with asyncio.timeout(PART_TIMEOUT_S):
                    part = await anext(body, b"")
            except TimeoutError:
                reason = f"each part must arrive within {PART_TIMEOUT_S:g} s"
                raise BadRequest(reason, field="body") from None
            except ClientDisconnect:
                reason = "must be complete, but the client disconnected"
                raise BadRequest(reason, field="body") from None
            try:
                self._parser.write(part)
            except MultipartParseError as error:
                raise BadRequest(f"must be valid {MULTIPART}: {error}", field="body") from error
            for chunk in self._ready:
                yield chunk
            self._ready.clear()
            if not part:
                break
        if not self._has_ended:
            raise BadRequest(f"must be complete {MULTIPART}", field="body")
        self.properties()

    def properties(self) -> FileProperties:
        """Return what the fields say of the file. Raises InvalidParameter."""
        if self._filename is None:
            raise InvalidParameter(
                "Field required", field="file", code="missing_required_parameter"
            )
        try:
            fields = UploadFields.model_validate(self._fields)
        except ValidationError as error:
            raise parameter_error(error) from error
        return FileProperties(self._filename, fields.purpose, fields.ttl_s)

    # -- callbacks of the parser -----------------------------------------------------------------

    def _begin(self) -> None:
        self._name, self._is_file = "", False
        self._header = b"", b""
        self._value.clear()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end])[:MAX_FIELD_BYTES], self._header[1]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = self._header[0], (self._header[1] + data[start:end])[:MAX_FIELD_BYTES]

    def _end_header(self) -> None:
        (name, value), self._header = self._header, (b"", b"")
        if name.lower() != b"content-disposition":
            return
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self._filename is not None:
                raise InvalidParameter("must be one file", field="file")
            self._filename = options.get(b"filename", b"file").decode("utf-8", "replace")[:MAX_NAME]

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._num_bytes += end - start
            if self._num_bytes > self._max_bytes:
                raise PayloadTooLarge(f"must be at most {self._max_bytes} bytes", field="file")
            self._ready.append(bytes(data[start:end]))
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            reason = f"must be at most {MAX_FIELD_BYTES} bytes"
            raise InvalidParameter(reason, field=self._name[:MAX_NAME] or "body")

    def _end_part(self) -> None:
        if not self._is_file:
            if len(self._fields) >= MAX_FIELDS:
                raise InvalidParameter(f"must have at most {MAX_FIELDS} fields", field="body")
            self._fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._has_ended = True
