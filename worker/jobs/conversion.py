"""Convert jobs to engine requests, and the engine's tokens to deltas and results."""

import msgspec
from llguidance import LLMatcher

from shared.protocol import ChatJob, Delta, ModelCard
from shared.request.parameters import GenerateKwargs
from shared.results import ChatResult, PromptResult, PromptScores, SequenceResult, Usage
from worker.engine import FinishReason, Request, SamplingParams, TokenOutput
from worker.engine import PromptScores as EngineScores
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
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "forced_bos_token_id",
    "exponential_decay_length_penalty",
    "remove_invalid_values",
    "renormalize_logits",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "prompt_logprobs",
)


# The text of a grammar and, unless the engine shall compile it, what `Grammars.compile` returned.
Grammar = tuple[str, LLMatcher | None]


def to_request(
    request_id: str,
    job: ChatJob,
    kwargs: GenerateKwargs,
    card: ModelCard,
    generated: tuple[tuple[int, ...], ...] = (),
    *,
    grammar: Grammar | None = None,
) -> Request:
    """Return the engine's request for a job with a tokenized prompt.

    `generated` are the token ids of each sequence that an earlier attempt generated, and `grammar`
    is that of `kwargs.structured_outputs`.
    """
    assert job.token_ids is not None and job.max_new_tokens is not None
    text, matcher = grammar or (None, None)
    params = to_sampling_params(
        kwargs, max_new_tokens=job.max_new_tokens, seed=job.seed, card=card, grammar=text
    )
    return Request(
        request_id=request_id,
        prompt_token_ids=job.token_ids,
        params=params,
        generated=generated,
        priority=job.priority,
        gives_way=job.gives_way,
        adapter=job.adapter,
        prediction=tuple(job.prediction_token_ids or ()),
        matcher=matcher,
    )


def to_sampling_params(
    kwargs: GenerateKwargs,
    *,
    max_new_tokens: int,
    seed: int,
    card: ModelCard,
    grammar: str | None = None,
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
        include_stop=kwargs.include_stop_str_in_output,
        bad_words_ids=tuple(tuple(word) for word in kwargs.bad_words_ids or ()),
        sequence_bias=tuple((tuple(ids), bias) for ids, bias in kwargs.sequence_bias or ()),
        suppress_tokens=tuple(kwargs.suppress_tokens or ()),
        begin_suppress_tokens=tuple(kwargs.begin_suppress_tokens or ()),
        forced_eos_token_ids=tuple(kwargs.forced_eos_token_id or ()),
        logprobs=kwargs.wants_scores,
        top_logprobs=kwargs.top_logprobs or 0,
        grammar=grammar,
        raw_logprobs=kwargs.logprobs_mode == "raw_logprobs" and kwargs.num_beams == 1,
    )


def _eos_token_ids(kwargs: GenerateKwargs, card: ModelCard) -> tuple[int, ...]:
    """Return the model's own unless the request sets them, and the stop tokens; null means none."""
    is_set = "eos_token_id" in kwargs.model_fields_set
    eos = kwargs.eos_token_id or () if is_set else card.eos_token_ids
    return tuple(dict.fromkeys([*eos, *(kwargs.stop_token_ids or ())]))


def to_delta(output: TokenOutput) -> Delta:
    return Delta(
        sequence=output.sequence,
        text=output.text,
        token_ids=[output.token_id],
        logprob=output.logprob,
        top_logprobs=output.top_logprobs,
        finish_reason=output.finish_reason,
        prompt=to_prompt_scores(output.prompt),
    )


def to_prompt_scores(found: EngineScores | None) -> PromptScores | None:
    if found is None:
        return None
    is_scored = found.token_ids is not None
    return PromptScores(
        num_tokens=found.num_tokens,
        cached_tokens=found.num_cached_tokens,
        token_ids=found.token_ids,
        logprobs=found.logprobs if is_scored else None,
        top_logprobs=found.top_logprobs if is_scored else None,
    )


def to_output(request_id: str, delta: Delta) -> TokenOutput:
    """Return the output that `to_delta` converted."""
    [token_id] = delta.token_ids
    found = delta.prompt
    return TokenOutput(
        request_id=request_id,
        sequence=delta.sequence,
        token_id=token_id,
        text=delta.text,
        logprob=delta.logprob,
        top_logprobs=delta.top_logprobs,
        finish_reason=FinishReason(delta.finish_reason) if delta.finish_reason else None,
        prompt=None if found is None else to_engine_scores(found),
    )


def to_engine_scores(found: PromptScores) -> EngineScores:
    """Return the scores that `to_prompt_scores` converted."""
    return EngineScores(
        found.num_tokens,
        found.cached_tokens,
        found.token_ids,
        found.logprobs or [],
        found.top_logprobs or [],
    )


def to_chat_result(job: ChatJob, kwargs: GenerateKwargs, generation: Generation) -> ChatResult:
    """Return the 200 body of a finished generation."""
    sequences = [_to_sequence_result(job, kwargs, outputs) for outputs in generation.sequences]
    echo = job.prompt or "" if job.return_full_text else ""
    prompt = generation.sequences[0][0].prompt
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
            cached_tokens=prompt.num_cached_tokens if prompt else msgspec.UNSET,
            **_prediction_counts(job, generation),
        ),
        seed=job.seed,
        prompt=_to_prompt_result(job, kwargs, prompt),
    )


def _prediction_counts(job: ChatJob, generation: Generation) -> dict[str, int]:
    """Return the fields of `Usage` about the job's prediction; none without a prediction."""
    if not job.prediction:
        return {}
    found = [outputs[-1].predicted for outputs in generation.sequences]
    known = [counts for counts in found if counts is not None]
    return {
        "accepted_prediction_tokens": sum(accepted for accepted, _ in known),
        "rejected_prediction_tokens": sum(rejected for _, rejected in known),
    }


def _to_prompt_result(
    job: ChatJob, kwargs: GenerateKwargs, found: EngineScores | None
) -> PromptResult | msgspec.UnsetType:
    """Return the prompt's token ids and scores, where the request asks for either."""
    wants_scores = kwargs.prompt_logprobs is not None
    if not (kwargs.return_token_ids or wants_scores):
        return msgspec.UNSET
    return PromptResult(
        token_ids=job.token_ids or [],
        token_logprobs=found.logprobs if found and wants_scores else None,
        top_logprobs=found.top_logprobs if found and kwargs.prompt_logprobs else None,
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
    if kwargs.return_token_ids:
        result = msgspec.structs.replace(result, token_ids=[o.token_id for o in outputs])
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
