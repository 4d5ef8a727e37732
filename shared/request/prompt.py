"""Tokenize a job: chat template, tokenizer and the limits of the model card.

The api does this before it enqueues a job. A worker does it if the api had no model card.
"""

from collections.abc import Iterable, Iterator
from copy import copy

import msgspec
from pydantic import ValidationError
from tokenizers import Tokenizer

from shared.errors import BadRequest, InvalidParameter, ModelNotFound
from shared.protocol import ChatJob, Message, ModelCard
from shared.request.chat_template import ChatTemplate
from shared.request.grammar_checker import GrammarChecker
from shared.request.lengths import (
    Lengths,
    fill_context,
    max_bytes_per_token,
    plan_lengths,
    too_many_bytes,
)
from shared.request.parameters import GenerateKwargs

ROLES = ("system", "user", "assistant")
MAX_CHARS_PER_TOKEN = 64  # of a prediction, if the tokenizer sets no bound; a longer text is cut


def check_prompt(job: ChatJob) -> None:
    """Check the prompt of a job without a model. Raises BadRequest or InvalidParameter."""
    if not job.prompt and not job.messages and not job.prompt_token_ids:
        raise BadRequest("Text generation parameter prompt required")
    if job.prompt and job.messages:
        raise InvalidParameter("give either prompt or messages, not both", field="messages")
    if job.prompt_token_ids and (job.prompt or job.messages):
        reason = "must not be given together with prompt or messages"
        raise InvalidParameter(reason, field="prompt_token_ids")
    if job.prefix and not job.prompt:
        given = "messages" if job.messages else "prompt_token_ids"
        raise InvalidParameter(f"must not be given together with {given}", field="prefix")
    check_roles(job.messages or ())


def check_roles(messages: Iterable[Message]) -> None:
    """Raise BadRequest for a message with a role that chat templates do not know."""
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise BadRequest(
                f"unknown role {message.role[:40]!r}; roles are {', '.join(ROLES)}",
                field=f"messages.{index}.role",
            )


def check_kwargs(job: ChatJob) -> GenerateKwargs:
    """Validate the parameters of a stored job again: another version may have other rules.

    Raises InvalidParameter.
    """
    try:
        return GenerateKwargs.model_validate(job.generate_kwargs)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(["generate_kwargs", *map(str, first["loc"])])
        raise InvalidParameter(first["msg"], field=field) from None


class PromptEncoder:
    """Tokenizer, chat template and limits of one model."""

    def __init__(self, card: ModelCard, tokenizer_json: bytes) -> None:
        """Compile the chat template. Raises BrokenChatTemplate."""
        self.card = card
        self.runtime_adapters: tuple[str, ...] = ()  # in addition to the card's
        self.tokenizer: Tokenizer = Tokenizer.from_buffer(tokenizer_json)
        # tokenizer.json may have settings of the training. Prompts are never truncated or padded.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.grammars = GrammarChecker(self.tokenizer)
        self._max_bytes_per_token = max_bytes_per_token(tokenizer_json)
        self._chat_template = (
            None
            if card.chat_template is None
            else ChatTemplate(card.chat_template, card.template_tokens or {})
        )

    @property
    def adapters(self) -> tuple[str, ...]:
        return (*self.card.adapters, *self.runtime_adapters)

    def with_adapters(self, names: tuple[str, ...]) -> "PromptEncoder":
        """Return an encoder for the same model, with adapters that were loaded at run time."""
        other = copy(self)
        other.runtime_adapters = names
        return other

    def prepare(self, job: ChatJob, kwargs: GenerateKwargs) -> ChatJob:
        """Check and tokenize a job. Raises what `check` and `tokenize` raise."""
        return self.tokenize(self.check(job, kwargs), job, kwargs)

    def check(self, job: ChatJob, kwargs: GenerateKwargs) -> str:
        """Make all checks that need no tokens and return the text to tokenize.

        Raises BadRequest for a missing prompt, a prompt with too many bytes or a conversation that
        the template refuses, and InvalidParameter for a parameter outside the model's limits.
        """
        check_prompt(job)
        self.check_model(job.model)
        self._check_adapter(job.adapter)
        self._check_rows(kwargs)
        self._check_vocabulary(kwargs)
        self._check_ends(kwargs)
        if job.prompt_token_ids:
            return ""
        if job.messages:
            text = self.render(job.messages, continue_final=job.continue_final_message)
        else:
            text = (job.prefix or "") + (job.prompt or "")
        if job.handle_long_generation is None:
            self._check_bytes(text)
        return text

    def tokenize(self, text: str, job: ChatJob, kwargs: GenerateKwargs) -> ChatJob:
        """Return the job with the token ids of its checked text, its length and its adapter.

        The ids encode prefix and prompt, or the rendered conversation. Raises BadRequest.
        """
        token_ids = job.prompt_token_ids or self._tokenize_text(text, job)
        if not token_ids:
            raise BadRequest("Text generation parameter prompt required")
        self._check_embedded(token_ids, job)
        lengths = self._lengths(len(token_ids), job, kwargs)
        self._check_kv_tokens(lengths.prompt + lengths.max_new_tokens, kwargs)
        names_adapter = job.adapter is None and job.model in self.adapters
        return msgspec.structs.replace(
            job,
            token_ids=token_ids[-lengths.prompt :],
            max_new_tokens=lengths.max_new_tokens,
            prediction_token_ids=self._tokenize_prediction(job.prediction),
            adapter=job.model if names_adapter else job.adapter,
        )

    def _tokenize_prediction(self, text: str | None) -> list[int] | None:
        """Return the token ids to draft from, at most a context of them, in the vocabulary."""
        if not text:
            return None
        limit = self.card.context_length
        text = text[: limit * (self._max_bytes_per_token or MAX_CHARS_PER_TOKEN)]
        token_ids = self.encode(text, add_special_tokens=False)[:limit]
        return [token_id for token_id in token_ids if token_id < self.card.vocab_size]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        # A batch of one: unlike `encode`, this call releases the interpreter lock.
        (encoding,) = self.tokenizer.encode_batch_fast(
            [text], add_special_tokens=add_special_tokens
        )
        token_ids: list[int] = encoding.ids
        return token_ids

    def render(
        self, messages: tuple[Message, ...], *, continue_final: bool, begin_answer: bool = True
    ) -> str:
        """Return the text of a conversation. Raises BadRequest.

        A last message of the assistant stays open if `continue_final`; else a new one begins, if
        `begin_answer`.
        """
        check_roles(messages)
        if self._chat_template is None:
            reason = f"the model {self.card.name} has no chat template; send a prompt instead"
            raise BadRequest(reason, field="messages")
        return self._chat_template.render(
            messages, continue_final=continue_final, begin_answer=begin_answer
        )

    def text_of(self, token_ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(token_ids)
        return text

    def _lengths(self, num_prompt: int, job: ChatJob, kwargs: GenerateKwargs) -> Lengths:
        context = self.card.context_length
        drop_start = job.handle_long_generation == "hole"
        if job.fill_context:
            rows = max(kwargs.num_return_sequences, kwargs.num_beams)
            room = min(context, self.card.max_kv_tokens // rows)
            kwargs = fill_context(num_prompt, kwargs, room, drop_start=drop_start)
        return plan_lengths(num_prompt, kwargs, context, drop_start=drop_start)

    def _tokenize_text(self, text: str, job: ChatJob) -> list[int]:
        """Return the token ids; a chat template adds the special tokens itself."""
        add = not job.messages if job.add_special_tokens is None else job.add_special_tokens
        return self.encode(text, add_special_tokens=add)

    def _check_bytes(self, text: str) -> None:
        if self._max_bytes_per_token is None:
            return
        num_bytes, context = len(text.encode()), self.card.context_length
        least_tokens = -(-num_bytes // self._max_bytes_per_token)
        if least_tokens > context:
            raise too_many_bytes(num_bytes, least_tokens, context)

    def check_model(self, model: str | None) -> None:
        """Raise ModelNotFound unless the name is that of the model or of an adapter."""
        known = (self.card.name, *self.adapters)
        if model is not None and model not in known:
            names = ", ".join(dict.fromkeys(known))
            raise ModelNotFound(f"no model {model[:40]!r}; there are: {names}", field="model")

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.adapters:
            names = ", ".join(self.adapters) or "none"
            raise InvalidParameter(
                f"no adapter {adapter[:40]!r} with this model; there are: {names}",
                field="adapter",
            )

    def _check_rows(self, kwargs: GenerateKwargs) -> None:
        for name, limit in (
            ("num_beams", self.card.max_num_beams),
            ("num_return_sequences", self.card.max_rows),
        ):
            value = getattr(kwargs, name)
            if value > limit:
                reason = f"must be at most {limit} with this model, got {value}"
                raise InvalidParameter(reason, field=f"generate_kwargs.{name}")

    def _check_vocabulary(self, kwargs: GenerateKwargs) -> None:
        size = self.card.vocab_size
        for name, token_ids in named_token_ids(kwargs):
            outside = next((token_id for token_id in token_ids if token_id >= size), None)
            if outside is not None:
                reason = f"token id {outside} is outside the vocabulary of {size} tokens"
                raise InvalidParameter(reason, field=f"generate_kwargs.{name}")

    def _check_ends(self, kwargs: GenerateKwargs) -> None:
        """Raise InvalidParameter if structured outputs could not end, for lack of an eos token."""
        is_set = "eos_token_id" in kwargs.model_fields_set
        eos = kwargs.eos_token_id if is_set else self.card.eos_token_ids
        if kwargs.structured_outputs and not (eos or kwargs.stop_token_ids):
            reason = "must name a token with structured_outputs, which end with it"
            raise InvalidParameter(reason, field="generate_kwargs.eos_token_id")

    def _check_embedded(self, token_ids: list[int], job: ChatJob) -> None:
        """Raise BadRequest for a token without an embedding: a tokenizer may have more tokens."""
        size = self.card.vocab_size
        outside = next((token_id for token_id in token_ids if token_id >= size), None)
        if outside is not None:
            token = self.tokenizer.id_to_token(outside)
            given = (name for name in ("messages", "prompt_token_ids") if getattr(job, name))
            raise BadRequest(
                f"the token {token!r} must not occur: its id {outside} is outside the model's "
                f"vocabulary of {size} tokens",
                field=next(given, "prompt"),
            )

    def _check_kv_tokens(self, length: int, kwargs: GenerateKwargs) -> None:
        rows = max(kwargs.num_return_sequences, kwargs.num_beams)
        limit = self.card.max_kv_tokens
        if rows * length > limit:
            raise BadRequest(
                f"{rows} sequences of up to {length} tokens need {rows * length} tokens of KV "
                f"cache, which must be at most {limit}; ask for fewer or shorter sequences",
                field="generate_kwargs",
            )


def named_token_ids(kwargs: GenerateKwargs) -> Iterator[tuple[str, Iterable[int]]]:
    """Yield the name and the token ids of every parameter that has token ids."""
    for name in ("pad_token_id", "forced_bos_token_id"):
        token_id = getattr(kwargs, name)
        yield name, () if token_id is None else (token_id,)
    for name in (
        "eos_token_id",
        "stop_token_ids",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
    ):
        yield name, getattr(kwargs, name) or ()
    for index, word in enumerate(kwargs.bad_words_ids or ()):
        yield f"bad_words_ids.{index}", word
    for index, (sequence, _) in enumerate(kwargs.sequence_bias or ()):
        yield f"sequence_bias.{index}", sequence
