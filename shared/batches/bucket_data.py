"""The contents of files in a bucket of S3, or of a service with its interface.

Needs the optional extra s3. Credentials and region come from the AWS_* variables, or from the
machine or pod, as obstore documents.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from shared.batches.file_data import RETRY_AFTER_S, FileData
from shared.batches.ids import new_id
from shared.errors import ServiceUnavailable, SettingsError

if TYPE_CHECKING:
    from obstore.store import S3Config

PART_BYTES = 8 * 1024 * 1024  # S3 takes at most 10,000 parts, so files of up to 78 GiB
PARTS_AT_ONCE = 2  # of an upload; so many parts, and the next one, are held in memory
READ_BYTES = 4 * 1024 * 1024  # in a request, because the reader of a batch may pause for hours
TIMEOUT_S = 60  # of a request
MAX_RETRIES = 4
RETRY_S = 20  # afterwards no request is repeated
METADATA_SERVICE = "169.254.169.254"  # asked for credentials if nothing else has any
ERRORS = (BaseError, OSError)  # FileNotFoundError: no such object, or no such bucket
CODE = re.compile(r"<Code>(\w+)</Code>")

log = structlog.get_logger(__name__)


class BucketFileData(FileData):
    """An object per file, which appears as a whole when its upload ends."""

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        """Take `s3://BUCKET/PREFIX`, and the URL of a service other than AWS. Nothing is sent."""
        address = urlsplit(url)
        config: S3Config = {"disable_bulk_delete": True}  # services other than AWS may lack it
        if endpoint is not None:
            config["aws_endpoint_url_s3"] = endpoint
        self._url = url
        self._store = S3Store(
            address.netloc,
            prefix=address.path.strip("/") or None,
            config=config,
            client_options={
                "timeout": timedelta(seconds=TIMEOUT_S),
                "allow_http": (endpoint or "").startswith("http:"),
            },
            retry_config={
                "max_retries": MAX_RETRIES,
                "retry_timeout": timedelta(seconds=RETRY_S),
            },
        )

    async def check(self) -> None:
        """Write, read and delete an object; an unreachable service is logged, as it may return."""
        name = new_id("check-")
        try:
            await obstore.put_async(self._store, name, b"falconer")
            await obstore.get_async(self._store, name)
            await obstore.delete_async(self._store, name)
        except ERRORS as error:
            setting = f"--files-bucket (or FALCONER_FILES_BUCKET) = {self._url!r}"
            if (reason := permanent_reason(error)) is not None:
                raise SettingsError(f"{setting}: {reason}") from error
            log.warning(
                "files cannot be stored until the bucket answers",
                setting=setting,
                error=first_line(error),
            )

    async def write(self, file_id: str, chunks: AsyncIterator[bytes]) -> int:
        """Write a file. Raises ServiceUnavailable while the bucket takes no files."""
        writer = obstore.open_writer_async(
            self._store, file_id, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )
        num_bytes = 0
        try:
            async for chunk in chunks:
                with reported("written"):
                    await writer.write(chunk)
                num_bytes += len(chunk)
        except BaseException as error:
            with suppress(*ERRORS):  # a rule of the bucket removes the parts in the end
                await asyncio.shield(writer.__aexit__(type(error), error, None))  # aborts
            raise
        with reported("written"):
            await writer.close()
        return num_bytes

    async def read(self, file_id: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on. Raises ServiceUnavailable if the bucket fails."""
        try:
            with reported("read"):
                num_bytes = (await obstore.head_async(self._store, file_id))["size"]
            for start in range(offset, num_bytes, READ_BYTES):
                with reported("read"):
                    part = await obstore.get_range_async(
                        self._store, file_id, start=start, length=min(READ_BYTES, num_bytes - start)
                    )
                yield part.to_bytes()
        except FileNotFoundError:
            return

    async def keep(self, file_id: str, seconds: int) -> None:
        """Do nothing: `FileStore.remove_expired` deletes a file after its entry has expired."""

    async def delete(self, file_id: str) -> None:
        with suppress(FileNotFoundError), reported("deleted"):
            await obstore.delete_async(self._store, file_id)


@contextmanager
def reported(done: str) -> Iterator[None]:
    """Raise ServiceUnavailable for an error of the bucket, but FileNotFoundError for an object."""
    try:
        yield
    except ERRORS as error:
        if isinstance(error, FileNotFoundError) and done != "written":
            raise
        log.error("the bucket of the files failed", error=first_line(error))
        reason = f"files cannot be {done}: the bucket does not answer as it must"
        raise ServiceUnavailable(reason, retry_after_s=RETRY_AFTER_S) from error


def permanent_reason(error: Exception) -> str | None:
    """Return why no retry can help; None if the service may only be unreachable."""
    if isinstance(error, FileNotFoundError):
        return f"the bucket must exist{code_of(error)}"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        rule = "the credentials must allow to write, read and delete objects"
        return f"{rule}{code_of(error)}; they come from AWS_ACCESS_KEY_ID or from the machine"
    if METADATA_SERVICE in str(error):
        return "credentials must be set, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return f"the bucket refused a request{code_of(error)}" if CODE.search(str(error)) else None


def code_of(error: Exception) -> str:
    """Return the error code of the service in brackets, if it gave one."""
    found = CODE.search(str(error))
    return "" if found is None else f" ({found[1]})"


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
