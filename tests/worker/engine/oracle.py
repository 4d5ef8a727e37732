"""transformers as the judge: `generate`, and the processors it would use, for one prompt alone."""

from pathlib import Path
from typing import Any

import torch
from transformers import FalconForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from worker.engine import SamplingParams
from worker.engine.sequence import Sequence

END_OF_TEXT_ID = 11

# Parameters that both sides call the same and that are off at SamplingParams' default.
SAME_NAMES = (
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "do_sample",
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


def to_generate_kwargs(params: SamplingParams) -> dict[str, Any]:
    """The same wishes in the words of `GenerationConfig`; what is off is left out."""
    default = SamplingParams()
    kwargs = {name: getattr(params, name) for name in SAME_NAMES}
    kwargs = {
        name: list(value) if name.endswith("tokens") and isinstance(value, tuple) else value
        for name, value in kwargs.items()
        if value != getattr(default, name) or name in ("max_new_tokens", "do_sample")
    }
    if params.do_sample and params.top_k is None:
        kwargs["top_k"] = 0  # unset would mean transformers' own default, 50
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
    """The continuation that transformers makes of one unpadded prompt."""
    stop = {"stop_strings": list(params.stop_strings), "tokenizer": tokenizer}
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        **to_generate_kwargs(params),
        **(stop if params.stop_strings else {}),
    )
    continuation: list[int] = output[0, len(prompt) :].tolist()
    return continuation


def process(model: Any, sequence: Sequence, logits: torch.Tensor) -> torch.Tensor:
    """The scores [vocab] that `generate` would make of this row's logits [vocab]."""
    prompt, params = sequence.request.prompt_token_ids, sequence.params
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
    processors = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=input_ids,
        device="cpu",
        model_kwargs={},
    )
    scores: torch.Tensor = processors(torch.tensor([sequence.token_ids]), logits[None].clone())
    return scores[0]


def load_judge(path: Path) -> tuple[Any, Any]:
    """transformers' model and tokenizer of a checkpoint; no defaults of its own come in."""
    model_class: Any = FalconForCausalLM  # transformers' methods are decorated out of any type
    model = model_class.from_pretrained(path, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model, PreTrainedTokenizerFast.from_pretrained(path)


def silence() -> None:
    """No progress bars, no advice about flags: the oracle is asked odd things on purpose."""
    logging: Any = transformers_logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
