"""Make the request of a new job from a job that succeeded and has a token log."""

import secrets
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from shared.errors import Conflict, InvalidParameter
from shared.origin import OriginKind, ReplayedRun
from shared.protocol import DERIVED_SINCE, ChatJob, Delta, Succeeded
from shared.queue.enqueued import Source
from shared.request.lengths import wanted_new_tokens
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import check_kwargs

# A new job, and its source.
Derived = tuple[ChatJob, Source]

LENGTHS = {"max_length", "max_new_tokens"}  # two names of one limit

# Parameters that decide the text and the scores of the tokens that a fork keeps.
OF_KEPT_TOKENS = (
    "num_beams",
    "num_return_sequences",
    "eos_token_id",
    "stop_token_ids",
    "stop_strings",
    "include_stop_str_in_output",
    "output_scores",
    "return_dict_in_generate",
    "top_logprobs",
    "logprobs_mode",
    "prompt_logprobs",
)


def without_tokens(outcome: Succeeded) -> Conflict:
    """Return the error for a job that succeeded and has no token log."""
    if outcome.num_deltas == 0:
        field = "generate_kwargs.num_beams"
        return Conflict("must be 1: a beam search has no tokens before its end", field=field)
    return Conflict("the job must have a token log: submit it as a stream or with POST /jobs")


def continued(job: ChatJob, outcome: Succeeded, max_new_tokens: int) -> Derived:
    """Return the longer request, and the deltas of the job that it begins with.

    The last token is generated again: its delta has the end of the text, and a forced last token
    moves. The deltas of several sequences alternate; all of their tokens are generated again.
    Raises Conflict if no sequence has reached its length, or a worker chose the length.
    """
    length, count = _lengths(job, outcome)
    sequences = outcome.result.sequences
    if all(sequence.token_count < length for sequence in sequences):
        raise Conflict("the text is complete: it ends with a stop token or stop string")
    total = length + max_new_tokens
    return _derived(
        job,
        outcome,
        OriginKind.CONTINUE,
        count - 1 if len(sequences) == 1 else 0,
        generate_kwargs=job.generate_kwargs | {"max_new_tokens": total},
        max_new_tokens=total,
    )


def forked(job: ChatJob, outcome: Succeeded, at: int, given: GenerateKwargs) -> Derived:
    """Return the request with other parameters, which keeps the first `at` tokens of the job.

    Without a seed among `given` it gets a new one. Raises Conflict if a worker chose the length or
    the tokens of several sequences alternate, and InvalidParameter for `at` or a parameter.
    """
    length, count = _lengths(job, outcome)
    if at and len(outcome.result.sequences) > 1:
        field = "generate_kwargs.num_return_sequences"
        raise Conflict("must be 1 in the job, unless `at` is 0", field=field)
    if at >= count:
        reason = f"must be less than the number of the job's tokens, which is {count}, got {at}"
        raise InvalidParameter(reason, field="at")
    changes = given.model_dump(exclude_unset=True)
    replaced = {"seed"} | (LENGTHS if LENGTHS & changes.keys() else set())
    kept = {name: value for name, value in job.generate_kwargs.items() if name not in replaced}
    fork = msgspec.structs.replace(job, generate_kwargs=kept | changes)
    kwargs = check_kwargs(fork)
    if at:
        _check_kept(check_kwargs(job), kwargs)
    if LENGTHS & changes.keys():
        length = wanted_new_tokens(len(job.token_ids or ()), kwargs)
    if at >= length:
        raise InvalidParameter(f"must be less than max_new_tokens, which is {length}", field="at")
    return _derived(
        fork,
        outcome,
        OriginKind.FORK,
        at,
        seed=secrets.randbits(32) if given.seed is None else given.seed,
        max_new_tokens=length,
    )


def replayed(job: ChatJob, outcome: Succeeded, log: Sequence[Delta]) -> Derived:
    """Return the same request, to be compared with the tokens of the job in its `log`.

    A job that began with tokens of another one begins with them again. Otherwise any model may run
    it, and any version of its adapter. Raises Conflict if Redis lost tokens.
    """
    if len(log) != outcome.num_deltas:
        raise Conflict("Redis lost tokens of the job")
    token_ids: list[list[int]] = [[] for _ in outcome.result.sequences]
    for delta in log:
        token_ids[delta.sequence] += delta.token_ids
    num_deltas = job.inherited_deltas
    derived, source = _derived(
        msgspec.structs.replace(job, model=None),  # the present one; `adapter` names the adapter
        outcome,
        OriginKind.REPLAY,
        num_deltas,
        replay=ReplayedRun(token_ids=token_ids, run=outcome.run),
    )
    if not num_deltas:
        derived = msgspec.structs.replace(derived, adapter_version=None)
    return derived, source


def _lengths(job: ChatJob, outcome: Succeeded) -> tuple[int, int]:
    """Return the most new tokens of a sequence, and the number of deltas. Raises Conflict."""
    if job.max_new_tokens is None or outcome.num_deltas is None:
        raise Conflict("the job must be accepted after a worker has registered its model")
    return job.max_new_tokens, outcome.num_deltas


def _check_kept(old: GenerateKwargs, new: GenerateKwargs) -> None:
    """Raise InvalidParameter if the kept tokens would have another text or other scores."""
    for name in OF_KEPT_TOKENS:
        if _setting(old, name) != _setting(new, name):
            reason = "must be that of the job unless `at` is 0: it decides about the kept tokens"
            raise InvalidParameter(reason, field=f"generate_kwargs.{name}")


def _setting(kwargs: GenerateKwargs, name: str) -> tuple[Any, bool]:
    """Return the value, and for `eos_token_id` whether null stands for none."""
    return getattr(kwargs, name), name == "eos_token_id" and name in kwargs.model_fields_set


def _derived(
    job: ChatJob, outcome: Succeeded, kind: OriginKind, num_deltas: int, **changes: Any
) -> Derived:
    """Return the job under a new id, with the first `num_deltas` of the old token log."""
    derived = msgspec.structs.replace(
        job,
        id=uuid.uuid4().hex,
        version=max(job.version, DERIVED_SINCE),
        inherited_deltas=num_deltas,
        joined_to=None,
        adapter_version=None if outcome.run is None else outcome.run.adapter,
        **({"replay": None} | changes),
    )
    return derived, Source(outcome.job_id, kind, num_deltas)
