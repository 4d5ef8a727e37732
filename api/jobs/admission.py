"""From a request to a job: every check that needs no queue, and what the caller left open."""

import asyncio
import secrets
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from api.http.disconnect import Client
from api.jobs.model_watcher import CheckedModel, ModelWatcher
from api.jobs.redis_services import within_reach
from api.schemas import ChatRequest
from shared.errors import ClientError, InvalidParameter, ServiceUnavailable
from shared.protocol import ADAPTERS_SINCE, ChatJob
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import Prepared, check_prompt

LONG_TEXT = 8_000  # characters; tokenizing more would hold up other calls
MAX_LONG_TEXTS = 2  # prepared at a time; more would only take the processor from the other calls
LONG_TEXT_WAIT_S = 10.0  # for those; one may take seconds, and many may be ahead


class Admission:
    """Checks against the registered model; without one, the worker that takes the job does."""

    def __init__(self, models: ModelWatcher, max_ttl_s: int) -> None:
        self._models = models
        self._max_ttl_s = max_ttl_s
        self._long_texts = asyncio.Semaphore(MAX_LONG_TEXTS)

    async def admit(self, request: ChatRequest, client: Client, *, stream: bool) -> ChatJob:
        """Return a job with an id and a seed. Raises a ClientError that names field and limit.

        A long text waits for its turn, and then raises ServiceUnavailable, ClientDisconnected and
        ServerStopping too.
        """
        self._check_ttl(request.ttl_s)
        prompt = request.to_prompt()
        check_prompt(prompt)
        kwargs = request.generate_kwargs
        job = ChatJob(
            version=1 if request.adapter is None else ADAPTERS_SINCE,
            id=uuid.uuid4().hex,
            prompt=prompt,
            generate_kwargs=kwargs.model_dump(exclude_unset=True),
            seed=secrets.randbits(32) if kwargs.seed is None else kwargs.seed,
            return_full_text=request.return_full_text,
            clean_up_tokenization_spaces=request.clean_up_tokenization_spaces,
            stream=stream,
            deadline_s=request.deadline_s,
            ttl_s=request.ttl_s,
            priority=request.priority,
            adapter=request.adapter,
        )
        return await self._checked(job, kwargs, client)

    def _check_ttl(self, ttl_s: int | None) -> None:
        if ttl_s is not None and ttl_s > self._max_ttl_s:
            reason = f"should be at most {self._max_ttl_s} seconds, got {ttl_s}"
            raise InvalidParameter(reason, field="ttl_s")

    async def _checked(self, job: ChatJob, kwargs: GenerateKwargs, client: Client) -> ChatJob:
        """Return the job, checked against the registered model; as it is without a model.

        A refusal is checked once more if another model serves by now.
        """
        model = self._models.current
        if model is None:
            return job
        try:
            return await self._tokenized(model, job, kwargs, client)
        except ClientError:
            newest = await self._newest_model()
            if newest is model:
                raise
        return job if newest is None else await self._tokenized(newest, job, kwargs, client)

    async def _newest_model(self) -> CheckedModel | None:
        """The model as Redis knows it; the last one seen while Redis is away."""
        with suppress(ServiceUnavailable):
            async with within_reach():
                await self._models.refresh()
        return self._models.current

    async def _tokenized(
        self, model: CheckedModel, job: ChatJob, kwargs: GenerateKwargs, client: Client
    ) -> ChatJob:
        """Return the job with its token ids and its length.

        Only a long text is tokenized in a thread: the hop takes longer than a short text.
        """
        # Errors that need no tokens come first: their request need not wait for its turn.
        text = model.encoder.check(job.prompt, kwargs, job.adapter)
        measure = partial(model.encoder.measure, text, job.prompt, kwargs)
        is_long = len(text) > LONG_TEXT
        prepared = (
            await client.run_until_disconnect(self._in_turn(measure)) if is_long else measure()
        )
        return msgspec.structs.replace(
            job,
            card_hash=model.card_hash,
            token_ids=prepared.token_ids,
            max_new_tokens=prepared.max_new_tokens,
        )

    async def _in_turn(self, measure: Callable[[], Prepared]) -> Prepared:
        try:
            async with asyncio.timeout(LONG_TEXT_WAIT_S):
                await self._long_texts.acquire()
        except TimeoutError:
            raise ServiceUnavailable(
                f"busy with other long prompts: {MAX_LONG_TEXTS} of over {LONG_TEXT} characters at "
                f"a time, and this one's turn did not come within {LONG_TEXT_WAIT_S:g} s",
                retry_after_s=round(LONG_TEXT_WAIT_S),
            ) from None
        work = asyncio.ensure_future(asyncio.to_thread(measure))
        work.add_done_callback(lambda _: self._long_texts.release())
        return await asyncio.shield(work)  # a thread goes on though its caller has gone
