"""From the wire to the engine and back: generation parameters in, the 200 body out.

With `worker/jobs/task.py` the only place that knows both vocabularies. Pure.
"""

from shared.protocol import ChatJob, ChatResult, Delta, ModelCard, SequenceResult, Usage
from shared.request.parameters import GenerateKwargs
from shared.request.prompt import Prepared
from worker.engine import FinishReason, SamplingParams, TokenOutput
from worker.generation import GeneratedSequence, Generation

# transformers' `clean_up_tokenization`, in its order.
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


def to_sampling_params(
    kwargs: GenerateKwargs, *, max_new_tokens: int, seed: int, card: ModelCard
) -> SamplingParams:
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        min_length=kwargs.min_length,
        min_new_tokens=kwargs.min_new_tokens,
        eos_token_ids=_eos_token_ids(kwargs, card),
        stop_strings=tuple(kwargs.stop_strings or ()),
        pad_token_id=card.pad_token_id if kwargs.pad_token_id is None else kwargs.pad_token_id,
        do_sample=kwargs.do_sample,
        num_return_sequences=kwargs.num_return_sequences,
        seed=seed,
        temperature=kwargs.temperature,
        top_k=kwargs.top_k,
        top_p=kwargs.top_p,
        min_p=kwargs.min_p,
        typical_p=kwargs.typical_p,
        epsilon_cutoff=kwargs.epsilon_cutoff,
        eta_cutoff=kwargs.eta_cutoff,
        num_beams=kwargs.num_beams,
        num_beam_groups=kwargs.num_beam_groups,
        diversity_penalty=kwargs.diversity_penalty,
        early_stopping=kwargs.early_stopping,
        length_penalty=kwargs.length_penalty,
        repetition_penalty=kwargs.repetition_penalty,
        no_repeat_ngram_size=kwargs.no_repeat_ngram_size,
        encoder_no_repeat_ngram_size=kwargs.encoder_no_repeat_ngram_size,
        bad_words_ids=tuple(tuple(word) for word in kwargs.bad_words_ids or ()),
        sequence_bias=tuple((tuple(ids), bias) for ids, bias in kwargs.sequence_bias or ()),
        suppress_tokens=tuple(kwargs.suppress_tokens or ()),
        begin_suppress_tokens=tuple(kwargs.begin_suppress_tokens or ()),
        forced_bos_token_id=kwargs.forced_bos_token_id,
        forced_eos_token_ids=tuple(kwargs.forced_eos_token_id or ()),
        exponential_decay_length_penalty=kwargs.exponential_decay_length_penalty,
        remove_invalid_values=kwargs.remove_invalid_values,
        renormalize_logits=kwargs.renormalize_logits,
        prompt_lookup_num_tokens=kwargs.prompt_lookup_num_tokens,
        max_matching_ngram_size=kwargs.max_matching_ngram_size,
        logprobs=kwargs.wants_scores,
        top_logprobs=kwargs.top_logprobs or 0,
    )


def _eos_token_ids(kwargs: GenerateKwargs, card: ModelCard) -> tuple[int, ...]:
    """The model's own unless the request names others; null means that nothing ends it early."""
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
    """What `to_delta` was given."""
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


def to_chat_result(
    job: ChatJob, kwargs: GenerateKwargs, prepared: Prepared, generation: Generation
) -> ChatResult:
    sequences = [_to_sequence_result(job, kwargs, s) for s in generation.sequences]
    echo = job.prompt.text or "" if job.return_full_text else ""
    num_prompt = len(prepared.token_ids)
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
    job: ChatJob, kwargs: GenerateKwargs, sequence: GeneratedSequence
) -> SequenceResult:
    text = "".join(sequence.texts)
    return SequenceResult(
        text=clean_up(text) if job.clean_up_tokenization_spaces else text,
        finish_reason=str(sequence.finish_reason),
        token_count=len(sequence.token_ids),
        score=sequence.score if kwargs.wants_scores else None,
        token_ids=sequence.token_ids if kwargs.wants_scores else None,
        token_logprobs=_logprobs(sequence) if kwargs.wants_scores else None,
        top_logprobs=sequence.top_logprobs if kwargs.top_logprobs else None,
    )


def _logprobs(sequence: GeneratedSequence) -> list[float] | None:
    """All or nothing: a token has none when its scores form no distribution."""
    known = [logprob for logprob in sequence.logprobs if logprob is not None]
    return known if len(known) == len(sequence.token_ids) else None


def clean_up(text: str) -> str:
    """Take out the spaces that tokenizers of old left before punctuation."""
    for spaced, tight in CLEAN_UPS:
        text = text.replace(spaced, tight)
    return text
