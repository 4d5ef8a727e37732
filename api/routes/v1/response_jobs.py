"""Submit the job of a response, and read what was stored of it."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial

import msgspec
from fastapi import Request

from api.http.disconnect import ClientConnection
from api.http.paths import without_answer_prefix
from api.openai.responses.events import Event, ResponseEvents
from api.openai.responses.input import Item
from api.openai.responses.request import UNSTORED_TTL_S, ResponseRequest
from api.openai.responses.stored import ResponseShape, StoredResponse
from api.openai.responses.view import STATUSES, ResponseView
from api.routes.sse import KEEP_ALIVE, KEEP_ALIVE_S, event
from api.routes.tokenizer import current_encoder
from api.routes.v1.request_jobs import RequestJobs
from api.services import Services
from shared.errors import ClientError, InvalidParameter, NotFound, ServiceUnavailable
from shared.protocol import JobRecord, Outcome, TokenDeltas

MAX_SHOWN = 64  # characters of an id in an error message


async def submit_response(
    request: Request, services: Services, body: ResponseRequest, idempotency_key: str | None
) -> tuple[RequestJobs, ResponseShape]:
    """Submit the job of a request; return it with what its response shows.

    A repeated request with its idempotency key gets the first one's.
    """
    earlier = await earlier_conversation(services, body.previous_response_id)
    shape = shape_of(services, body)
    max_bytes = services.settings.max_body_bytes
    stored = StoredResponse.of(body, shape, earlier, max_bytes=max_bytes)
    ttl_s = min(UNSTORED_TTL_S, services.settings.max_ttl_s)
    try:
        handle = await services.client.submit(
            body.job(earlier, unstored_ttl_s=ttl_s),
            ClientConnection(request.receive, services.stopping),
            wants_events=body.stream or not body.background,
            stream=shape.has_log,
            idempotency_key=idempotency_key,
            response=stored.encode() if body.is_kept else b"",
        )
    except ClientError as error:
        error.field = body.field_name(error.field)
        raise
    outlives_client = body.background or idempotency_key is not None
    with ExitStack() as stack:
        jobs = stack.enter_context(RequestJobs(services, [handle], outlives_client))
        first = None
        if idempotency_key is not None:
            first = await services.client.response(handle.job_id)
        stack.pop_all()
    return jobs, shape if first is None else StoredResponse.decode(first).shape


def shape_of(services: Services, body: ResponseRequest) -> ResponseShape:
    served = services.models.known(body.model)
    model = None if served is None else served.watcher.current
    name = body.model or ("" if model is None else model.encoder.card.name)
    return ResponseShape.of(body, name, None if model is None else model.card_hash)


async def earlier_conversation(services: Services, response_id: str | None) -> list[Item]:
    """Return the messages up to and including a response. Raises InvalidParameter."""
    if response_id is None:
        return []
    field, job_id = "previous_response_id", without_answer_prefix(response_id)
    try:
        stored = await stored_response(services, job_id)
        record = await services.client.record(job_id)
    except NotFound as error:
        code = "previous_response_not_found"
        raise InvalidParameter(error.message, field=field, code=code) from error
    if record.result is None:
        reason = f"must be a completed response, but it is {STATUSES[record.status]}"
        raise InvalidParameter(reason, field=field)
    return stored.conversation(record.result)


async def count_tokens(
    request: Request, services: Services, body: ResponseRequest, earlier: Sequence[Item]
) -> int:
    """Return the tokens of a request's prompt, however many.

    Raises ServiceUnavailable until a first worker has registered a model.
    """
    encoder = await current_encoder(services, body.model)
    messages = tuple(message.to_message() for message in body.job(earlier).messages or ())
    try:
        text = encoder.render(messages, continue_final=False)
    except ClientError as error:
        error.field = body.field_name(error.field)
        raise
    work = partial(encoder.encode, text, add_special_tokens=body.add_special_tokens is True)
    client = ClientConnection(request.receive, services.stopping)
    return len(await services.tokenization.run(work, len(text), client))


async def stored_response(services: Services, job_id: str) -> StoredResponse:
    """Return what was stored of a response. Raises NotFound."""
    data = await services.client.response(job_id)
    if data is None:
        raise NotFound(f"no response resp_{job_id[:MAX_SHOWN]}; they are kept for their ttl only")
    return StoredResponse.decode(data)


async def ended_record(jobs: RequestJobs, outcome: Outcome) -> JobRecord:
    """Return the record of the ended job; without Redis, as this replica knows it."""
    [handle] = jobs.handles
    with suppress(NotFound, ServiceUnavailable):
        record = await jobs.services.client.record(handle.job_id)
        if record.outcome is not None:
            return record
    assert handle.record is not None, "a submitted job has a record"
    return msgspec.structs.replace(
        handle.record,
        status=outcome.status,
        finished_ms=time.time_ns() // 1_000_000,
        outcome=outcome,
    )


async def event_stream(
    jobs: RequestJobs, shape: ResponseShape, after: int = -1
) -> AsyncIterator[bytes]:
    """Yield the response's events with numbers above `after`, and comments while there is none."""
    [handle] = jobs.handles
    record = handle.record
    assert record is not None, "a submitted job has a record"
    events = ResponseEvents(ResponseView(shape, await jobs.head()))
    for chunk in encoded(events.opening(record), after):
        yield chunk
    sent_at = time.monotonic()
    async for news in handle.events():
        if news is None:
            if time.monotonic() - sent_at >= KEEP_ALIVE_S:
                sent_at = time.monotonic()
                yield KEEP_ALIVE
            continue
        if isinstance(news, TokenDeltas):
            new = events.deltas(record, news)
        else:
            new = events.ending(await ended_record(jobs, news))
        for chunk in encoded(new, after):
            yield chunk
        sent_at = time.monotonic()


def encoded(events: Iterator[Event], after: int) -> Iterator[bytes]:
    for one in events:
        if one["sequence_number"] > after:
            yield event(one, name=one["type"])
