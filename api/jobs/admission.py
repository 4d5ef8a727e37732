"""Turn a request into a job: check it against the model, tokenize it, and draw id and seed."""

import secrets
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import msgspec

from api.http.disconnect import ClientConnection
from api.jobs.redis_services import redis_timeout
from api.jobs.reuse import check_reuse
from api.jobs.served_models import CheckedModel, ModelWatcher, ServedModel, ServedModels
from api.jobs.tokenization import Tokenization
from api.schemas import ChatRequest
from shared.errors import (
    BadRequest,
    ClientError,
    Conflict,
    InvalidParameter,
    ServiceUnavailable,
)
from shared.protocol import ADAPTERS_SINCE, PROMPTS_SINCE, ChatJob, Message
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import check_kwargs, check_prompt

# Fields that workers before PROMPTS_SINCE ignore.
PROMPT_FIELDS = {
    "prompt_token_ids",
    "model",
    "add_special_tokens",
    "continue_final_message",
    "fill_context",
    "prediction",
}


@dataclass(frozen=True, slots=True)
class Admitted:
    """A checked request, and the model whose queue gets its job."""

    job: ChatJob
    model: ServedModel


class Admission:
    """Check requests against the registered card of their model; without it, workers check them."""

    def __init__(self, models: ServedModels, tokenization: Tokenization, max_ttl_s: int) -> None:
        self._models = models
        self._tokenization = tokenization
        self._max_ttl_s = max_ttl_s

    async def admit(
        self,
        request: ChatRequest,
        client: ClientConnection,
        *,
        stream: bool,
        owner: str | None = None,
    ) -> Admitted:
        """Return a job of the owner, with an id and a seed. Raises a ClientError.

        A long text waits for its turn, and then raises ServiceUnavailable, ClientDisconnected and
        ServerStopping too.
        """
        model = await self._models.find(request.model)
        self._check_ttl(request.ttl_s)
        kwargs = request.generate_kwargs
        check_reuse(request.reuse, kwargs)
        job = _new_job(request, stream=stream, owner=owner)
        check_prompt(job)
        return Admitted(await self._checked(model.watcher, job, kwargs, client), model)

    async def admit_again(
        self, model: ServedModel, job: ChatJob, client: ClientConnection
    ) -> ChatJob:
        """Check a job that was made from an ended one, with its tokens and with new parameters.

        Raises as `admit`, and Conflict if another model is registered. That model may run a replay
        from the first token on.
        """
        kwargs = check_kwargs(job)
        checked = await self._checked(model.watcher, job, kwargs, client)
        if job.replay is not None and not job.inherited_deltas:
            return checked
        if checked.card_hash != job.card_hash:
            raise Conflict("the model is another one than that of the job")
        if checked.token_ids != job.token_ids:
            reason = "leaves less room for the prompt, which handle_long_generation would shorten"
            raise BadRequest(reason, field="max_new_tokens")
        return checked

    def _check_ttl(self, ttl_s: int | None) -> None:
        if ttl_s is not None and ttl_s > self._max_ttl_s:
            reason = f"must be at most {self._max_ttl_s} seconds, got {ttl_s}"
            raise InvalidParameter(reason, field="ttl_s")

    async def _checked(
        self, watcher: ModelWatcher, job: ChatJob, kwargs: GenerateKwargs, client: ClientConnection
    ) -> ChatJob:
        """Return the job with token ids and length; unchanged if no model is registered.

        Before a refusal, check the job against the newest model, which may have changed.
        """
        model = watcher.current
        if model is None:
            return job
        try:
            return await self._tokenized(model, job, kwargs, client)
        except ClientError:
            newest = await self._newest_card(watcher)
            if newest is model:
                raise
        return job if newest is None else await self._tokenized(newest, job, kwargs, client)

    async def _newest_card(self, watcher: ModelWatcher) -> CheckedModel | None:
        """Return the registered model; during an outage of Redis, the last one."""
        with suppress(ServiceUnavailable):
            async with redis_timeout():
                await watcher.refresh()
        return watcher.current

    async def _tokenized(
        self, model: CheckedModel, job: ChatJob, kwargs: GenerateKwargs, client: ClientConnection
    ) -> ChatJob:
        # These checks need no tokens, and so no turn of a long text.
        text = model.encoder.check(job, kwargs)
        outputs, grammars = kwargs.structured_outputs, model.encoder.grammars
        if outputs is not None and not grammars.is_known(outputs):
            check = partial(grammars.check, outputs)
            await self._tokenization.check_grammar(check, client)
        tokenize = partial(model.encoder.tokenize, text, job, kwargs)
        num_chars = len(text) + len(job.prediction or "")
        tokenized = await self._tokenization.run(tokenize, num_chars, client)
        return msgspec.structs.replace(tokenized, card_hash=model.card_hash)


def protocol_version(request: ChatRequest) -> int:
    """Return the version of the oldest workers that can run the request."""
    if PROMPT_FIELDS & request.model_fields_set:
        return PROMPTS_SINCE
    return 1 if request.adapter is None else ADAPTERS_SINCE


def _new_job(request: ChatRequest, *, stream: bool, owner: str | None) -> ChatJob:
    """Return the job of a request, not yet checked against a model."""
    kwargs = request.generate_kwargs
    return ChatJob(
        version=protocol_version(request),
        id=uuid.uuid4().hex,
        prompt=None if request.messages else request.prompt,
        prompt_token_ids=request.prompt_token_ids,
        messages=_to_messages(request),
        model=request.model,
        add_special_tokens=request.add_special_tokens,
        continue_final_message=request.continue_final_message,
        prediction=request.prediction,
        fill_context=request.fill_context,
        prefix=request.prefix,
        handle_long_generation=request.handle_long_generation,
        generate_kwargs=kwargs.model_dump(exclude_unset=True),
        seed=secrets.randbits(32) if kwargs.seed is None else kwargs.seed,
        return_full_text=request.return_full_text,
        clean_up_tokenization_spaces=request.clean_up_tokenization_spaces,
        stream=stream or request.reuse != "never",  # others need the token log
        deadline_s=request.deadline_s,
        ttl_s=request.ttl_s,
        priority=request.priority,
        adapter=request.adapter,
        metadata=request.metadata,
        owner=owner,
    )


def _to_messages(request: ChatRequest) -> tuple[Message, ...] | None:
    if request.messages is None:
        return None
    return tuple(message.to_message() for message in request.messages)
