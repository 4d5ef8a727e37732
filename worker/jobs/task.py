"""One chat job, from its lease to its outcome: check, generate, stream, and every way to end.

Knows the wire and the engine's runtime, not Redis: what it returns is written by the worker.
"""

import time

from pydantic import ValidationError

from shared.errors import ClientError, InvalidParameter, status_code
from shared.process.asyncio_tasks import wait_at_most
from shared.protocol import (
    Batch,
    Failed,
    Finished,
    JobError,
    JobStatus,
    Outcome,
)
from shared.queue.terminal_outcomes import CANCELLED, EXPIRED
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import Prepared, PromptEncoder
from worker.engine import Request
from worker.engine_thread import EngineThread
from worker.generation import Generation
from worker.jobs.active_job import ActiveJob
from worker.jobs.conversion import to_chat_result, to_delta, to_output, to_sampling_params
from worker.jobs.token_log_writer import Outbox

NO_STEPS = Batch(mean_rows=0.0, max_rows=0)  # an earlier attempt made every token


class ChatTask:
    """Runs jobs on one model; called once per attempt."""

    def __init__(
        self, runtime: EngineThread, encoder: PromptEncoder, card_hash: str, outbox: Outbox
    ) -> None:
        self._runtime = runtime
        self._encoder = encoder
        self._card_hash = card_hash
        self._outbox = outbox

    async def __call__(self, held: ActiveJob) -> Outcome:
        """How the job ended. Cancelling this call ends the generation without an outcome."""
        if held.is_cancelled:
            return _failed(held, JobStatus.CANCELLED, CANCELLED)
        if held.time_left_s <= 0:
            return _failed(held, JobStatus.EXPIRED, EXPIRED)
        try:
            kwargs = _check_kwargs(held)
            prepared = self._prepare(held, kwargs)
        except ClientError as error:
            refusal = JobError(
                message=error.message, status_code=status_code(error), field=error.field
            )
            return _failed(held, JobStatus.FAILED, refusal)
        return await self._generate(held, kwargs, prepared)

    def _prepare(self, held: ActiveJob, kwargs: GenerateKwargs) -> Prepared:
        """What the api prepared for this very model, else the same checks here."""
        job = held.job
        if job.card_hash == self._card_hash and job.token_ids and job.max_new_tokens:
            return Prepared(job.token_ids, job.max_new_tokens)
        prepared = self._encoder.prepare(job.prompt, kwargs, job.adapter)
        held.tokens = held.rows * (len(prepared.token_ids) + prepared.max_new_tokens)
        return prepared

    async def _generate(
        self, held: ActiveJob, kwargs: GenerateKwargs, prepared: Prepared
    ) -> Outcome:
        started = time.monotonic()
        if is_streamed(held, kwargs):
            generation = await self._stream(held, kwargs, prepared)
        else:
            generation = Generation(kwargs.num_return_sequences, held.changed)
            await self._run(held, kwargs, prepared, generation)
        if not generation.is_done:
            return _interrupted(held, generation)
        if generation.error is not None:
            return _failed(held, JobStatus.FAILED, generation.error, generation)
        return Finished(
            job_id=held.job.id,
            attempt=held.attempt,
            result=to_chat_result(held.job, kwargs, prepared, generation),
            batch=generation.batch or NO_STEPS,
            queue_ms=held.claimed.started_ms - held.claimed.created_ms,
            run_ms=1000 * (time.monotonic() - started),
            num_deltas=_num_deltas(held, kwargs, generation),
        )

    async def _stream(
        self, held: ActiveJob, kwargs: GenerateKwargs, prepared: Prepared
    ) -> Generation:
        """Go on from where the job's log ends; when this returns, the log has every token."""
        async with self._outbox.open(held) as job_log:
            generation = Generation(
                kwargs.num_return_sequences,
                held.changed,
                lambda output: self._outbox.put(job_log, to_delta(output)),
            )
            generation.resume(to_output(_request_id(held), delta) for delta in job_log.earlier)
            if not generation.is_done:
                await self._run(held, kwargs, prepared, generation)
            await self._outbox.written(job_log)
            return generation

    async def _run(
        self, held: ActiveJob, kwargs: GenerateKwargs, prepared: Prepared, generation: Generation
    ) -> None:
        """Until it is done, the job is cancelled or its time is over."""
        request = self._to_request(held, kwargs, prepared, generation)
        self._runtime.submit(request, generation)
        try:
            await wait_at_most(held.time_left_s, held.changed.wait())
        finally:
            self._runtime.abort(request.request_id)

    def _to_request(
        self, held: ActiveJob, kwargs: GenerateKwargs, prepared: Prepared, generation: Generation
    ) -> Request:
        return Request(
            request_id=_request_id(held),
            prompt_token_ids=prepared.token_ids,
            params=to_sampling_params(
                kwargs,
                max_new_tokens=prepared.max_new_tokens,
                seed=held.job.seed,
                card=self._encoder.card,
            ),
            generated=generation.token_ids,
            priority=held.job.priority,
            adapter=held.job.adapter,
        )


def is_streamed(held: ActiveJob, kwargs: GenerateKwargs) -> bool:
    """Until a beam search ends there is nothing to stream: its result comes with the end."""
    return held.job.stream and kwargs.num_beams == 1


def _num_deltas(held: ActiveJob, kwargs: GenerateKwargs, generation: Generation) -> int | None:
    """One for each token; None where nobody streamed what could have been."""
    if kwargs.num_beams > 1:
        return 0
    return generation.num_tokens if held.job.stream else None


def _request_id(held: ActiveJob) -> str:
    """Another attempt is another request."""
    return f"{held.job.id}:{held.fence}"


def _check_kwargs(held: ActiveJob) -> GenerateKwargs:
    """The api checked them; one of another version may have had other rules."""
    try:
        return GenerateKwargs.model_validate(held.job.generate_kwargs)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(["generate_kwargs", *map(str, first["loc"])])
        raise InvalidParameter(first["msg"], field=field) from None


def _interrupted(held: ActiveJob, generation: Generation) -> Failed:
    if held.is_cancelled:
        return _failed(held, JobStatus.CANCELLED, CANCELLED, generation)
    return _failed(held, JobStatus.EXPIRED, EXPIRED, generation)


def _failed(
    held: ActiveJob, status: JobStatus, error: JobError, generation: Generation | None = None
) -> Failed:
    return Failed(
        job_id=held.job.id,
        attempt=held.attempt,
        status=status,
        error=error,
        batch=generation.batch if generation else None,
    )
