"""The oracle: transformers' `generate`, and the processors it would use, for one prompt alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import FalconForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from worker.engine import SamplingParams
from worker.engine.sequence import Sequence
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

END_OF_TEXT_ID = 11

# Parameters with the same name on both sides that are off at SamplingParams' default.
SAME_NAMES = (
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "do_sample",
    "num_beams",
    "early_stopping",
    "length_penalty",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "exponential_decay_length_penalty",
    "remove_invalid_values",
    "renormalize_logits",
)


@dataclass(frozen=True)
class Oracle:
    """A checkpoint and transformers' model of it."""

    path: Path
    model: Any
    tokenizer: Any

    @property
    def vocab_size(self) -> int:
        size: int = self.model.config.vocab_size
        return size


@dataclass(frozen=True)
class Answer:
    """One continuation; `score` is that of a beam. `logprobs` are nan if no token was left."""

    token_ids: list[int]
    logprobs: list[float]
    score: float | None = None


def make_oracle(directory: Path, style: str) -> Oracle:
    """Write a small random checkpoint and load transformers' model from it."""
    silence()
    path = write_random_checkpoint(directory, like=style)
    return Oracle(path, *load_oracle(path))


def to_generate_kwargs(params: SamplingParams) -> dict[str, Any]:
    """Return the fields of `GenerationConfig`; without fields that are off."""
    default = SamplingParams()
    kwargs = {name: getattr(params, name) for name in SAME_NAMES}
    kwargs = {
        name: list(value) if name.endswith("tokens") and isinstance(value, tuple) else value
        for name, value in kwargs.items()
        if value != getattr(default, name) or name in ("max_new_tokens", "do_sample")
    }
    if params.do_sample and params.top_k is None:
        kwargs["top_k"] = 0  # transformers' default is 50
    if params.num_beams > 1:
        kwargs["num_return_sequences"] = params.num_return_sequences
    if params.bad_words_ids:
        kwargs["bad_words_ids"] = [list(word) for word in params.bad_words_ids]
    if params.sequence_bias:
        kwargs["sequence_bias"] = [[list(word), bias] for word, bias in params.sequence_bias]
    if params.forced_eos_token_ids:
        kwargs["forced_eos_token_id"] = list(params.forced_eos_token_ids)
    eos = list(params.eos_token_ids) or None
    return kwargs | {"eos_token_id": eos, "pad_token_id": 0}


def generate(
    model: Any, prompt: list[int], params: SamplingParams, tokenizer: Any = None
) -> list[int]:
    """Return transformers' continuation of one unpadded prompt."""
    output = _generate(model, prompt, params, tokenizer)
    continuation: list[int] = output.sequences[0, len(prompt) :].tolist()
    return continuation


def answers(oracle: Oracle, prompt: list[int], params: SamplingParams) -> list[Answer]:
    """Return the results of transformers' greedy or beam search, the best first."""
    output = _generate(oracle.model, prompt, params, oracle.tokenizer)
    beams = getattr(output, "beam_indices", None)
    logprobs = oracle.model.compute_transition_scores(
        output.sequences.clamp(min=0),  # short beams may be padded with -1, which it cannot take
        output.scores,
        beams,
        normalize_logits=beams is None,
    )
    continuations = output.sequences[:, len(prompt) :].tolist()
    if beams is None:
        return [Answer(continuations[0], logprobs[0].tolist())]
    lengths = (beams >= 0).sum(dim=-1).tolist()  # padding follows
    scores = output.sequences_scores.tolist()
    return [
        Answer(token_ids[:length], row[:length], score)
        for token_ids, row, length, score in zip(
            continuations, logprobs.tolist(), lengths, scores, strict=True
        )
    ]


def _generate(model: Any, prompt: list[int], params: SamplingParams, tokenizer: Any) -> Any:
    stop = {"stop_strings": list(params.stop_strings), "tokenizer": tokenizer}
    return model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        return_dict_in_generate=True,
        output_scores=True,
        **to_generate_kwargs(params),
        **(stop if params.stop_strings else {}),
    )


def process(model: Any, sequence: Sequence, logits: torch.Tensor) -> torch.Tensor:
    """Process one row's logits [vocab] as `generate` would."""
    processors = _processors(model, sequence.request.prompt_token_ids, sequence.params)
    return _apply(processors, torch.tensor([sequence.token_ids]), logits)


@torch.no_grad()
def next_scores(
    model: Any, prompt: list[int], params: SamplingParams, token_ids: list[int]
) -> torch.Tensor:
    """Return the scores that `generate` would sample from after each prefix of `token_ids`.

    Processed scores, [len(token_ids) + 1, vocab]; the last row is for the whole.
    """
    whole = torch.tensor([prompt + token_ids])
    logits = model(whole, attention_mask=torch.ones_like(whole)).logits[0, len(prompt) - 1 :]
    processors = _processors(model, prompt, params)
    rows = [
        _apply(processors, whole[:, : len(prompt) + position], row)
        for position, row in enumerate(logits)
    ]
    return torch.stack(rows)


def _apply(processors: Any, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return processed scores [vocab]; nan where eta_cutoff raises because no token is left."""
    try:
        scores: torch.Tensor = processors(input_ids, logits[None].clone())
    except ValueError:
        return torch.full_like(logits, torch.nan)
    return scores[0]


def _processors(model: Any, prompt: list[int], params: SamplingParams) -> Any:
    """Return the processors that `generate` would apply to this prompt's continuation."""
    config, _ = model._prepare_generation_config(None, **to_generate_kwargs(params))
    model._prepare_special_tokens(config, True, device="cpu")
    input_ids = torch.tensor([prompt])
    config = model._prepare_generated_length(
        generation_config=config,
        has_default_max_length=True,
        has_default_min_length=params.min_new_tokens is None,
        model_input_name="input_ids",
        input_ids_length=len(prompt),
        inputs_tensor=input_ids,
    )
    return model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=input_ids,
        device="cpu",
        model_kwargs={},
    )


@contextmanager
def perturbed(model: Any, seed: int, size: float = 1e-5) -> Iterator[None]:
    """Move every logit by at most `size`, as rounding may."""
    generator = torch.Generator().manual_seed(seed)

    def perturb(_module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return logits + (torch.rand(logits.shape, generator=generator) * 2 - 1) * size

    hook = model.lm_head.register_forward_hook(perturb)
    try:
        yield
    finally:
        hook.remove()


def load_oracle(path: Path) -> tuple[Any, Any]:
    """Load transformers' model and tokenizer, without defaults of its own."""
    model_class: Any = FalconForCausalLM  # transformers' methods are decorated out of any type
    model = model_class.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model, PreTrainedTokenizerFast.from_pretrained(path)


def silence() -> None:
    """Switch off progress bars and advice: unusual parameters are used on purpose."""
    logging: Any = transformers_logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
