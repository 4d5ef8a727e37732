"""Run one chat job: check it, generate, stream its tokens, and return how it ended."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress

import msgspec

from shared.errors import ClientError, Conflict, ServiceUnavailable, status_code
from shared.origin import ModelRun
from shared.process.asyncio_tasks import wait_at_most
from shared.protocol import Batch, ChatJob, Failed, JobError, JobStatus, Outcome, Succeeded
from shared.queue.arq_format import CANCELLED, EXPIRED
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import PromptEncoder, check_kwargs
from shared.request.structured_outputs import StructuredOutputs, invalid_grammar
from worker.engine_thread import EngineThread
from worker.generation import Generation
from worker.jobs.active_job import ActiveJob
from worker.jobs.conversion import Grammar, to_chat_result, to_delta, to_output, to_request
from worker.jobs.job_follower import JobFollower
from worker.jobs.token_log_writer import TokenLogWriter

UseAdapter = Callable[[str | None], AbstractContextManager[str | None]]
CHECKER_ATTEMPTS = 5  # before a job fails because no checker of grammars starts
CHECKER_PAUSE_S = 1.0
LOST_TOKENS = JobError(message="Redis lost the tokens of the job that this one continues")
NO_STEPS = Batch(mean_rows=0.0, max_rows=0)  # an earlier attempt generated every token


class ChatTask:
    """Run jobs on one model; called once per attempt. The worker writes the outcome."""

    def __init__(
        self,
        engine_thread: EngineThread,
        encoder: PromptEncoder,
        card_hash: str,
        token_log: TokenLogWriter,
        use_adapter: UseAdapter = nullcontext,
        runtime_adapters: Callable[[], tuple[str, ...]] = tuple,
        follower: JobFollower | None = None,
    ) -> None:
        """Run on `engine_thread`; `use_adapter` gives the engine's name of a job's adapter.

        Without a `follower`, no job takes the tokens of another one.
        """
        self._follower = follower
        self._engine_thread = engine_thread
        self._encoder = encoder
        self._card_hash = card_hash
        self._token_log = token_log
        self._use_adapter = use_adapter
        self._runtime_adapters = runtime_adapters

    async def __call__(self, active: ActiveJob) -> Outcome:
        """Return how the job ended. Cancelling the call ends the generation."""
        if active.is_cancelled:
            return _failed(active, JobStatus.CANCELLED, CANCELLED)
        if active.time_left_s <= 0:
            return _failed(active, JobStatus.EXPIRED, EXPIRED)
        with ExitStack() as stack:  # keeps the adapter until the job ends
            try:
                kwargs = check_kwargs(active.job)
                async with asyncio.timeout(active.time_left_s):
                    grammar = await self._compile(active.job, kwargs.structured_outputs)
                self._tokenize_if_needed(active, kwargs)
                adapter = stack.enter_context(self._use_adapter(active.job.adapter))
                check_adapter(active.job, adapter)
            except (ClientError, ServiceUnavailable) as error:
                field = error.field if isinstance(error, ClientError) else None
                refusal = JobError(
                    message=error.message, status_code=status_code(error), field=field
                )
                return _failed(active, JobStatus.FAILED, refusal)
            except TimeoutError:  # other grammars are being checked
                return _failed(active, JobStatus.EXPIRED, EXPIRED)
            return await self._generate(active, kwargs, grammar, adapter)

    def _tokenize_if_needed(self, active: ActiveJob, kwargs: GenerateKwargs) -> None:
        """Check and tokenize the prompt, unless the api did so with the card of this worker."""
        if self._is_checked(active.job):
            return
        if active.job.inherited_deltas:
            raise Conflict("the model is another one than that of the job's first tokens")
        encoder = self._encoder.with_adapters(self._runtime_adapters())
        active.job = encoder.prepare(active.job, kwargs)

    def _is_checked(self, job: ChatJob) -> bool:
        """Return whether the api checked the job with the card of this worker."""
        return job.card_hash == self._card_hash and bool(job.token_ids and job.max_new_tokens)

    async def _compile(self, job: ChatJob, outputs: StructuredOutputs | None) -> Grammar | None:
        """Return the grammar, compiled for the engine; the api may have checked it."""
        if outputs is None:
            return None
        try:
            grammar = await self._to_grammar(outputs, is_checked=self._is_checked(job))
            matcher = await self._engine_thread.compile_grammar(grammar)
        except ValueError as error:
            raise invalid_grammar(outputs, str(error)) from None
        return grammar, matcher

    async def _to_grammar(self, outputs: StructuredOutputs, *, is_checked: bool) -> str:
        """Return the grammar of llguidance. Raises ServiceUnavailable after CHECKER_ATTEMPTS.

        The job was accepted, so a checker that cannot start now is tried again.
        """
        to_grammar = self._encoder.grammars.to_grammar
        for _ in range(CHECKER_ATTEMPTS - 1):
            with suppress(ServiceUnavailable):
                return await asyncio.to_thread(to_grammar, outputs, is_checked=is_checked)
            await asyncio.sleep(CHECKER_PAUSE_S)
        return await asyncio.to_thread(to_grammar, outputs, is_checked=is_checked)

    async def _generate(
        self,
        active: ActiveJob,
        kwargs: GenerateKwargs,
        grammar: Grammar | None,
        adapter: str | None,
    ) -> Outcome:
        started = time.monotonic()
        if is_streamed(active.job, kwargs):
            generation = await self._stream(active, kwargs, grammar, adapter)
        else:
            generation = Generation(kwargs.num_return_sequences, active.finished_or_cancelled)
            await self._run(active, kwargs, generation, grammar, adapter)
        if not generation.is_done:
            return _interrupted(active, generation)
        if generation.error is not None:
            return _failed(active, JobStatus.FAILED, generation.error, generation)
        replay = active.job.replay
        run = ModelRun(
            worker=active.claimed.worker_id,
            model=self._encoder.card.name,
            card_hash=self._card_hash,
            adapter=adapter,
        )
        return Succeeded(
            job_id=active.job.id,
            attempt=active.attempt,
            result=to_chat_result(active.job, kwargs, generation),
            batch=generation.batch or NO_STEPS,
            queue_ms=1000 * active.waited_s,
            run_ms=1000 * (time.monotonic() - started),
            num_deltas=_num_deltas(active.job, kwargs, generation),
            run=run,
            replay=None if replay is None else replay.compare(generation.token_ids, run),
        )

    async def _stream(
        self,
        active: ActiveJob,
        kwargs: GenerateKwargs,
        grammar: Grammar | None,
        adapter: str | None,
    ) -> Generation:
        """Continue from the end of the job's log; return once the log has every token."""
        async with self._token_log.open(active) as tokens:
            generation = Generation(
                kwargs.num_return_sequences,
                active.finished_or_cancelled,
                lambda output: tokens.append(to_delta(output)),
            )
            generation.resume(to_output(_request_id(active), delta) for delta in tokens.earlier)
            if len(tokens.earlier) < active.job.inherited_deltas:
                generation.fail(LOST_TOKENS)
            await self._follow(active, generation, adapter)
            if not generation.is_done and active.may_generate:
                await self._run(active, kwargs, generation, grammar, adapter)
            await tokens.flush()
            return generation

    async def _follow(self, active: ActiveJob, generation: Generation, adapter: str | None) -> None:
        """Take the tokens of the job that this one has joined, as far as there are any.

        The order in which the tokens of several sequences alternate differs between runs: a later
        attempt would continue at the wrong one.
        """
        if self._follower is None or not self._is_checked(active.job) or generation.is_done:
            return
        if generation.num_tokens and len(generation.sequences) > 1:
            return
        async for deltas in self._follower.deltas(active, adapter, generation.num_tokens):
            request_id = _request_id(active)
            generation.take_from_other_job(to_output(request_id, delta) for delta in deltas)

    async def _run(
        self,
        active: ActiveJob,
        kwargs: GenerateKwargs,
        generation: Generation,
        grammar: Grammar | None,
        adapter: str | None,
    ) -> None:
        """Generate until the request is done, the job is cancelled, or its deadline passes."""
        job = msgspec.structs.replace(active.job, adapter=adapter)
        request = to_request(
            _request_id(active),
            job,
            kwargs,
            self._encoder.card,
            generation.token_ids,
            grammar=grammar,
        )
        self._engine_thread.submit(request, generation)
        try:
            await wait_at_most(active.time_left_s, active.finished_or_cancelled.wait())
        finally:
            self._engine_thread.abort(request.request_id)


def check_adapter(job: ChatJob, version: str | None) -> None:
    """Raise Conflict if the job's first tokens are of another version of its adapter."""
    if job.adapter_version not in (None, version):
        reason = "it was loaded again after the first tokens of the job"
        raise Conflict(reason, field="adapter")


def is_streamed(job: ChatJob, kwargs: GenerateKwargs) -> bool:
    """Return whether tokens are sent at once; a beam search has no tokens before its end."""
    return job.stream and kwargs.num_beams == 1


def _num_deltas(job: ChatJob, kwargs: GenerateKwargs, generation: Generation) -> int | None:
    """Return the length of the job's token log; None if the job keeps none."""
    if kwargs.num_beams > 1:
        return 0
    return generation.num_tokens if job.stream else None


def _request_id(active: ActiveJob) -> str:
    """Return an id that no other attempt has."""
    return f"{active.job.id}:{active.fencing_token}"


def _interrupted(active: ActiveJob, generation: Generation) -> Failed:
    if active.is_cancelled:
        return _failed(active, JobStatus.CANCELLED, CANCELLED, generation)
    return _failed(active, JobStatus.EXPIRED, EXPIRED, generation)


def _failed(
    active: ActiveJob, status: JobStatus, error: JobError, generation: Generation | None = None
) -> Failed:
    return Failed(
        job_id=active.job.id,
        attempt=active.attempt,
        status=status,
        error=error,
        batch=generation.batch if generation else None,
    )
