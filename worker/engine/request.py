"""What a caller asks of the engine, and the checks that make a request safe to run."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.engine.limits import check_values
from worker.engine.sampling_params import SamplingParams

if TYPE_CHECKING:  # plain numbers of it are looked at here; it knows torch
    from worker.model.config import ModelConfig

MAX_DRAWN_EOS = 16  # each is one more draw per beam and step, among all tokens of all beams


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and how to continue it, `params.num_return_sequences` times.

    `generated[i]` holds tokens that an earlier attempt already made for sequence i: they count as
    generated, not as prompt (lengths, n-gram bans, seed positions), and are not emitted again.
    Higher `priority` runs first; equal ones in the order they were added. `adapter` is one that the
    engine serves; None is the model itself.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    generated: tuple[tuple[int, ...], ...] = field(default=())
    priority: int = 0
    adapter: str | None = None


def check_request(
    request: Request, model_config: "ModelConfig", adapters: Collection[str] = ()
) -> None:
    """Raise ValueError, naming field and limit, where a request could never run.

    `adapters` are those that are served.
    """
    params = request.params
    if not request.prompt_token_ids:
        raise ValueError("prompt_token_ids is empty; at least one token is needed")
    if request.adapter is not None and request.adapter not in adapters:
        names = ", ".join(adapters) or "none"
        raise ValueError(f"adapter {request.adapter!r} is not served; there are: {names}")
    check_values(params)
    num_prompt_tokens = len(request.prompt_token_ids)
    if num_prompt_tokens + params.max_new_tokens > model_config.context_length:
        raise ValueError(
            f"{num_prompt_tokens} prompt tokens + max_new_tokens {params.max_new_tokens} "
            f"exceed the model's context of {model_config.context_length} tokens"
        )
    _check_beams(params)
    _check_token_ids(request, model_config.vocab_size)
    _check_forced(params)
    _check_generated(request)


def _check_beams(params: SamplingParams) -> None:
    num_beams, num_groups = params.num_beams, params.num_beam_groups
    if 1 < num_beams < params.num_return_sequences:
        raise ValueError(
            f"num_return_sequences must be at most num_beams ({num_beams}), "
            f"not {params.num_return_sequences}"
        )
    if num_beams % num_groups:
        raise ValueError(f"num_beam_groups ({num_groups}) must divide num_beams ({num_beams})")
    if num_groups > 1 and params.do_sample:
        raise ValueError("do_sample must be off with num_beam_groups > 1")
    if num_groups > 1 and not params.diversity_penalty > 0:
        raise ValueError(
            "diversity_penalty must be above 0 with num_beam_groups > 1, "
            f"not {params.diversity_penalty}"
        )
    if num_beams > 1 and params.do_sample and len(params.eos_token_ids) > MAX_DRAWN_EOS:
        raise ValueError(
            f"eos_token_ids must hold at most {MAX_DRAWN_EOS} with num_beams > 1 and do_sample, "
            f"not {len(params.eos_token_ids)}"
        )


def _check_forced(params: SamplingParams) -> None:
    """Refuse, as transformers does, to force a token and suppress it: none would be left."""
    forced_bos = () if params.forced_bos_token_id is None else (params.forced_bos_token_id,)
    for name, forced in (
        ("forced_bos_token_id", forced_bos),
        ("forced_eos_token_id", params.forced_eos_token_ids),
    ):
        if forced and set(forced) <= set(params.suppress_tokens):
            raise ValueError(f"every token of {name} is also in suppress_tokens")


def _check_generated(request: Request) -> None:
    params = request.params
    if len(request.generated) > params.num_return_sequences:
        raise ValueError(
            f"generated holds {len(request.generated)} sequences, "
            f"num_return_sequences is {params.num_return_sequences}"
        )
    longest = max(map(len, request.generated), default=0)
    if longest > params.max_new_tokens:
        raise ValueError(
            f"generated holds {longest} tokens, max_new_tokens is {params.max_new_tokens}"
        )


def _check_token_ids(request: Request, vocab_size: int) -> None:
    for name, token_ids in _token_id_fields(request):
        if not token_ids and name in ("bad_words_ids", "sequence_bias"):
            raise ValueError(f"{name} holds an empty word")
        for token_id in token_ids:
            if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
                raise ValueError(
                    f"{name} holds token id {token_id}; the vocabulary is [0, {vocab_size})"
                )


def _token_id_fields(request: Request) -> Iterator[tuple[str, tuple[int, ...] | list[int]]]:
    """Every field that indexes logits or embeddings. An eos id out of range just never occurs."""
    params = request.params
    yield "prompt_token_ids", request.prompt_token_ids
    for generated in request.generated:
        yield "generated", generated
    for word in params.bad_words_ids:
        yield "bad_words_ids", word
    for word, _ in params.sequence_bias:
        yield "sequence_bias", word
    yield "suppress_tokens", params.suppress_tokens
    yield "begin_suppress_tokens", params.begin_suppress_tokens
    yield "forced_eos_token_id", params.forced_eos_token_ids
    for name in ("forced_bos_token_id", "pad_token_id"):
        token_id = getattr(params, name)
        yield name, () if token_id is None else (token_id,)
