"""`/v1/files`: the files of batches, on any replica."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from api.batches.upload import Upload
from api.http.errors import json_response
from api.jobs.redis_services import redis_timeout
from api.openai.batches.objects import DeletedFile, FileObject, FilePage
from api.openai.batches.request import MIN_TTL_S
from api.openapi import (
    OPENAI_ERRORS,
    OPENAI_LOOKUP_ERRORS,
    OPENAI_PARAMETER_ERRORS,
    Responses,
    schema_response,
)
from api.services import Services, services_of
from shared.batches.files import StoredFile
from shared.batches.ids import MAX_ID, PageRequest
from shared.errors import NotFound
from shared.queue.keys import MAX_FILE_TTL_S

MAX_PAGE = 10_000
MAX_SHOWN = 64  # characters of an id in an error message

FILE = schema_response("FileObject", "The file.")
FILES = schema_response("FilePage", "A page of files.")
DELETED_FILE = schema_response("DeletedFile", "Deleted.")
CONTENT: dict[str, Any] = {
    "description": "The contents of the file.",
    "content": {"application/octet-stream": {"schema": {"type": "string"}}},
}
UPLOAD_ERRORS: Responses = {status: OPENAI_ERRORS[status] for status in (400, 413, 415, 503)}
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": MIN_TTL_S,
                            "maximum": MAX_FILE_TTL_S,
                        },
                    },
                }
            }
        },
    }
}

router = APIRouter()

Purpose = Annotated[str | None, Query(max_length=MAX_ID, description="Only files of this purpose.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of files.")]
Order = Annotated[Literal["asc", "desc"], Query(description="`desc`: the newest first.")]
After = Annotated[
    str | None, Query(max_length=MAX_ID, description="The `last_id` of the page before.")
]


@router.post(
    "/v1/files",
    summary="Upload a file",
    responses={200: FILE, **UPLOAD_ERRORS},
    openapi_extra=UPLOAD,
)
async def create(request: Request) -> Response:
    """Store the file of a batch: JSONL, a request per line."""
    services = services_of(request)
    upload = Upload(request, services.settings.max_file_bytes)
    async with redis_timeout(None):
        file = await services.redis.files.create(upload.file(), upload.properties)
    return json_response(FileObject.of(file))


@router.get("/v1/files", summary="List files", responses={200: FILES, **OPENAI_PARAMETER_ERRORS})
async def list_files(
    request: Request,
    purpose: Purpose = None,
    limit: Limit = MAX_PAGE,
    order: Order = "desc",
    after: After = None,
) -> Response:
    """List files, also the files of results."""
    page = PageRequest(limit, after, order == "asc")
    async with redis_timeout(None):
        files, has_more = await services_of(request).redis.files.page(page, purpose)
    return json_response(
        FilePage(
            data=[FileObject.of(file) for file in files],
            first_id=files[0].id if files else None,
            last_id=files[-1].id if files else None,
            has_more=has_more,
        )
    )


@router.get(
    "/v1/files/{file_id}", summary="Get a file", responses={200: FILE, **OPENAI_LOOKUP_ERRORS}
)
async def retrieve(request: Request, file_id: str) -> Response:
    """Get the properties of a file."""
    return json_response(FileObject.of(await stored_file(services_of(request), file_id)))


@router.get(
    "/v1/files/{file_id}/content",
    summary="Download a file",
    responses={200: CONTENT, **OPENAI_LOOKUP_ERRORS},
)
async def content(request: Request, file_id: str) -> Response:
    """Download the contents of a file."""
    services = services_of(request)
    file = await stored_file(services, file_id)
    headers = {"Content-Length": str(file.num_bytes), "Cache-Control": "no-store"}
    parts = services.redis.files.read(file.id) if request.method == "GET" else nothing()
    return StreamingResponse(parts, headers=headers, media_type="application/octet-stream")


@router.delete(
    "/v1/files/{file_id}",
    summary="Delete a file",
    responses={200: DELETED_FILE, **OPENAI_LOOKUP_ERRORS},
)
async def delete(request: Request, file_id: str) -> Response:
    """Delete a file. A batch that still reads it fails."""
    services = services_of(request)
    file = await stored_file(services, file_id)
    async with redis_timeout(None):
        await services.redis.files.delete(file.id)
    return json_response(DeletedFile(id=file.id))


async def stored_file(services: Services, file_id: str, field: str | None = None) -> StoredFile:
    """Return the properties of a file. Raises NotFound, about this field if it is given."""
    async with redis_timeout():
        file = await services.redis.files.get(file_id)
    if file is None:
        raise NotFound(f"no file {file_id[:MAX_SHOWN]!r}; it may have expired", field=field)
    return file


async def nothing() -> AsyncIterator[bytes]:
    """Yield nothing: the body of HEAD."""
    return
    yield b""
