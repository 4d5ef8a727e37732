"""Convert jobs to engine requests, and the engine's tokens to deltas and results."""

import msgspec

from shared.protocol import ChatJob, ChatResult, Delta, ModelCard, SequenceResult, Usage
from shared.request.parameters import GenerateKwargs
from worker.engine import FinishReason, Request, SamplingParams, TokenOutput
from worker.generation import Generation

# The replacements of transformers' `clean_up_tokenization`, in its order.
CLEAN_UPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)

# Parameters with the same name, type and meaning in a request and in the engine.
COPIED_PARAMETERS = (
    "min_length",
    "min_new_tokens",
    "do_sample",
    "num_return_sequences",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "early_stopping",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "forced_bos_token_id",
    "exponential_decay_length_penalty",
    "remove_invalid_values",
    "renormalize_logits",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
)


def to_request(
    request_id: str,
    job: ChatJob,
    kwargs: GenerateKwargs,
    card: ModelCard,
    generated: tuple[tuple[int, ...], ...] = (),
) -> Request:
    """Return the engine's request for a job with a tokenized prompt.

    `generated` are the token ids of each sequence that an earlier attempt generated.
    """
    assert job.token_ids is not None and job.max_new_tokens is not None
    params = to_sampling_params(kwargs, max_new_tokens=job.max_new_tokens, seed=job.seed, card=card)
    return Request(
        request_id=request_id,
        prompt_token_ids=job.token_ids,
        params=params,
        generated=generated,
        priority=job.priority,
        adapter=job.adapter,
    )


def to_sampling_params(
    kwargs: GenerateKwargs, *, max_new_tokens: int, seed: int, card: ModelCard
) -> SamplingParams:
    """Return the engine's parameters; parameters in COPIED_PARAMETERS are copied."""
    copied = {name: getattr(kwargs, name) for name in COPIED_PARAMETERS}
    return SamplingParams(
        **copied,
        max_new_tokens=max_new_tokens,
        seed=seed,
        eos_token_ids=_eos_token_ids(kwargs, card),
        pad_token_id=card.pad_token_id if kwargs.pad_token_id is None else kwargs.pad_token_id,
        stop_strings=tuple(kwargs.stop_strings or ()),
        bad_words_ids=tuple(tuple(word) for word in kwargs.bad_words_ids or ()),
        sequence_bias=tuple((tuple(ids), bias) for ids, bias in kwargs.sequence_bias or ()),
        suppress_tokens=tuple(kwargs.suppress_tokens or ()),
        begin_suppress_tokens=tuple(kwargs.begin_suppress_tokens or ()),
        forced_eos_token_ids=tuple(kwargs.forced_eos_token_id or ()),
        logprobs=kwargs.wants_scores,
        top_logprobs=kwargs.top_logprobs or 0,
    )


def _eos_token_ids(kwargs: GenerateKwargs, card: ModelCard) -> tuple[int, ...]:
    """Return the model's own unless the request sets them; null means none."""
    if "eos_token_id" not in kwargs.model_fields_set:
        return tuple(card.eos_token_ids)
    return tuple(kwargs.eos_token_id or ())


def to_delta(output: TokenOutput) -> Delta:
    return Delta(
        sequence=output.sequence,
        text=output.text,
        token_ids=[output.token_id],
        logprob=output.logprob,
        top_logprobs=output.top_logprobs,
        finish_reason=output.finish_reason,
    )


def to_output(request_id: str, delta: Delta) -> TokenOutput:
    """Return the output that `to_delta` converted."""
    [token_id] = delta.token_ids
    return TokenOutput(
        request_id=request_id,
        sequence=delta.sequence,
        token_id=token_id,
        text=delta.text,
        logprob=delta.logprob,
        top_logprobs=delta.top_logprobs,
        finish_reason=FinishReason(delta.finish_reason) if delta.finish_reason else None,
    )


def to_chat_result(job: ChatJob, kwargs: GenerateKwargs, generation: Generation) -> ChatResult:
    """Return the 200 body of a finished generation."""
    sequences = [_to_sequence_result(job, kwargs, outputs) for outputs in generation.sequences]
    echo = job.prompt or "" if job.return_full_text else ""
    num_prompt = len(job.token_ids or ())
    num_completion = generation.num_tokens
    return ChatResult(
        result="".join(echo + sequence.text for sequence in sequences),
        id=job.id,
        sequences=sequences,
        usage=Usage(
            prompt_tokens=num_prompt,
            completion_tokens=num_completion,
            total_tokens=num_prompt + num_completion,
        ),
        seed=job.seed,
    )


def _to_sequence_result(
    job: ChatJob, kwargs: GenerateKwargs, outputs: list[TokenOutput]
) -> SequenceResult:
    text = "".join(output.text for output in outputs)
    result = SequenceResult(
        text=clean_up(text) if job.clean_up_tokenization_spaces else text,
        finish_reason=str(outputs[-1].finish_reason),
        token_count=len(outputs),
    )
    return _with_scores(result, kwargs, outputs) if kwargs.wants_scores else result


def _with_scores(
    result: SequenceResult, kwargs: GenerateKwargs, outputs: list[TokenOutput]
) -> SequenceResult:
    top_logprobs = [o.top_logprobs for o in outputs if o.top_logprobs is not None]
    return msgspec.structs.replace(
        result,
        score=outputs[-1].score,
        token_ids=[output.token_id for output in outputs],
        token_logprobs=_logprobs(outputs),
        top_logprobs=top_logprobs if kwargs.top_logprobs else None,
    )


def _logprobs(outputs: list[TokenOutput]) -> list[float] | None:
    """Return one value per token, or None if any is undefined."""
    known = [output.logprob for output in outputs if output.logprob is not None]
    return known if len(known) == len(outputs) else None


def clean_up(text: str) -> str:
    """Remove the spaces before punctuation that old tokenizers insert."""
    for spaced, tight in CLEAN_UPS:
        text = text.replace(spaced, tight)
    return text
