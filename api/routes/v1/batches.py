"""`/v1/batches`: many requests in one, answered in rows that no other request wants."""

from collections.abc import AsyncIterator, Iterable
from hashlib import sha256
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.http.errors import json_response
from api.http.headers import IdempotencyKey
from api.jobs.idempotency import owned_key
from api.jobs.redis_services import redis_timeout
from api.openai.batches.objects import BatchObject, BatchPage
from api.openai.batches.request import BatchRequest, InlineRequest
from api.openapi import (
    OPENAI_ERRORS,
    OPENAI_LOOKUP_ERRORS,
    OPENAI_PARAMETER_ERRORS,
    Responses,
    request_body,
    schema_response,
)
from api.routes.v1.files import After, stored_file
from api.routes.v1.request_jobs import read_v1_model
from api.services import Services, services_of
from shared.batches.batches import Batch, BatchSpec, new_spec_ids
from shared.batches.files import INPUT, FileProperties, StoredFile
from shared.batches.ids import PageRequest
from shared.errors import Conflict, InvalidParameter, NotFound, QueueFull
from shared.queue.enqueued import IdempotencyKey as KeyDigests
from shared.queue.keys import FILE_TTL_S

MAX_PAGE = 100
MAX_SHOWN = 64  # characters of an id in an error message

BATCH = schema_response("BatchObject", "The batch.")
BATCHES = schema_response("BatchPage", "A page of batches.")
BATCH_ERRORS: Responses = {
    **{status: OPENAI_ERRORS[status] for status in (400, 413, 415, 429, 503)},
    404: schema_response("OpenAIErrorBody", "No such file or batch."),
    409: schema_response(
        "OpenAIErrorBody", "The batch has ended, or the key was used with another body."
    ),
}

router = APIRouter()

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of batches.")]


@router.post(
    "/v1/batches",
    summary="Create a batch",
    responses={200: BATCH, **BATCH_ERRORS},
    openapi_extra=request_body("BatchRequest"),
)
async def create(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Answer the requests of a file, or of a list, before the batch expires.

    They run at the lowest priority, on any replica. An invalid file fails the batch, not the call.
    A repeated request with its idempotency key gets the first one's batch.
    """
    services = services_of(request)
    body = await read_v1_model(request, services, BatchRequest)
    body.check()
    async with redis_timeout(None):
        file = await input_file(services, body)
        seconds, _ = await services.redis.batches.redis.time()
        spec = BatchSpec(
            **new_spec_ids(),
            endpoint=body.endpoint,
            completion_window=body.completion_window,
            input_file_id=file.id,
            metadata=body.metadata,
            created_at=int(seconds),
            expires_at=int(seconds) + body.window_s,
            output_ttl_s=body.output_ttl_s,
            owner=services.caller.name,
        )
        await services.redis.files.keep_until(file, spec.expires_at + FILE_TTL_S)
        try:
            key = digest_key(body, idempotency_key, spec.owner)
            batch_id = await services.redis.batches.create(spec, key)
        except (Conflict, QueueFull):
            await discard(services, body, file)
            raise
        if batch_id != spec.id:
            await discard(services, body, file)
    services.batches.wake()
    return json_response(BatchObject.of(await stored_batch(services, batch_id)))


def digest_key(
    body: BatchRequest, idempotency_key: str | None, owner: str | None
) -> KeyDigests | None:
    """Digest the key, apart from the keys of jobs and of other owners, and the fields."""
    if idempotency_key is None:
        return None
    fields = msgspec.json.encode(body.model_dump(exclude_unset=True), order="deterministic")
    key = f"/v1/batches\n{owned_key(idempotency_key, owner)}"
    return KeyDigests(sha256(key.encode()).hexdigest(), sha256(fields).hexdigest())


async def input_file(services: Services, body: BatchRequest) -> StoredFile:
    """Return the file of the batch; write its requests into one if it has none."""
    if body.requests is not None:
        lines = lines_of(body.requests, body.endpoint)
        about = FileProperties("requests.jsonl", INPUT, FILE_TTL_S)
        return await services.redis.files.create(lines, lambda: about)
    file = await stored_file(services, body.input_file_id or "", field="input_file_id")
    if file.purpose != INPUT:
        raise InvalidParameter("must be a file of purpose batch", field="input_file_id")
    return file


async def discard(services: Services, body: BatchRequest, file: StoredFile) -> None:
    """Delete the file of a batch that was not created, unless a client uploaded it."""
    if body.requests is not None:
        await services.redis.files.delete(file.id)


async def lines_of(requests: Iterable[InlineRequest], endpoint: str) -> AsyncIterator[bytes]:
    """Yield the lines of a file with these requests."""
    for one in requests:
        line = {"custom_id": one.custom_id, "method": "POST", "url": endpoint, "body": one.body}
        yield msgspec.json.encode(line) + b"\n"


@router.get(
    "/v1/batches", summary="List batches", responses={200: BATCHES, **OPENAI_PARAMETER_ERRORS}
)
async def list_batches(request: Request, limit: Limit = 20, after: After = None) -> Response:
    """List batches, the newest first."""
    async with redis_timeout(None):
        page = PageRequest(limit, after)
        batches, has_more = await services_of(request).redis.batches.page(page)
    return json_response(
        BatchPage(
            data=[BatchObject.of(batch) for batch in batches],
            first_id=batches[0].spec.id if batches else None,
            last_id=batches[-1].spec.id if batches else None,
            has_more=has_more,
        )
    )


@router.get(
    "/v1/batches/{batch_id}", summary="Get a batch", responses={200: BATCH, **OPENAI_LOOKUP_ERRORS}
)
async def retrieve(request: Request, batch_id: str) -> Response:
    """Get the status and the counts of a batch."""
    return json_response(BatchObject.of(await stored_batch(services_of(request), batch_id)))


@router.post(
    "/v1/batches/{batch_id}/cancel",
    summary="Cancel a batch",
    responses={200: BATCH, **BATCH_ERRORS},
)
async def cancel(request: Request, batch_id: str) -> Response:
    """Cancel a batch. Its files have the results so far, and an error for each other line."""
    services = services_of(request)
    batch = await stored_batch(services, batch_id)
    async with redis_timeout():
        is_cancelled = await services.redis.batches.cancel(batch_id)
    if not is_cancelled and batch.status.is_final:
        raise Conflict(f"the batch cannot be cancelled: it is {batch.status}")
    return json_response(BatchObject.of(await stored_batch(services, batch_id)))


async def stored_batch(services: Services, batch_id: str) -> Batch:
    """Return a batch as it is now. Raises NotFound."""
    async with redis_timeout():
        batch = await services.redis.batches.get(batch_id)
    if batch is None:
        raise NotFound(f"no batch {batch_id[:MAX_SHOWN]!r}; batches are kept for a while only")
    return batch
