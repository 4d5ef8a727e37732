"""Run requests of every kind of parameters through one engine, and record their tokens."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.worker.engine.pretended_cuda.device import pretended_cuda
from worker.engine import Engine, EngineConfig, Executor, Request, RequestFailed, SamplingParams

LIMITS = EngineConfig(
    max_rows=64, num_blocks=400, block_size=4, max_step_tokens=96, max_chunk_tokens=16
)
NUM_TOKENS = 6
STYLES = ("7b", "40b", "11b", "rw")
DTYPES = ("float32", "bfloat16")

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"do_sample": True, "top_k": 5},
    {"do_sample": True, "top_p": 0.9},
    {"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 0.7},
    {"do_sample": True, "typical_p": 0.9},
    {"do_sample": True, "min_p": 0.02},
    {"do_sample": True, "epsilon_cutoff": 1e-3},
    {"do_sample": True, "eta_cutoff": 1e-3},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 2},
    {"bad_words_ids": ((20,), (21, 22))},
    {"sequence_bias": (((40,), 2.0), ((41, 42), -3.0))},
    {"suppress_tokens": (30, 31)},
    {"begin_suppress_tokens": (33,)},
    {"forced_eos_token_ids": (11,)},
    {"remove_invalid_values": True},
    {"renormalize_logits": True},
    {"exponential_decay_length_penalty": (2, 1.1), "eos_token_ids": (11,)},
    {"min_new_tokens": 3, "eos_token_ids": (11,)},
    {"logprobs": True, "top_logprobs": 3},
    {"num_beams": 3},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"num_beams": 3, "do_sample": True, "top_k": 20},
    {"prompt_lookup_num_tokens": 3},
    {"num_return_sequences": 2, "do_sample": True},
)


def load(checkpoint: Path, device: str, dtype: str, config: EngineConfig = LIMITS) -> Engine:
    return Engine.from_pretrained(
        str(checkpoint), dtype=dtype, device=device, executor=Executor.TORCH, config=config
    )


def requests() -> Iterator[Request]:
    """Yield one request of each kind; prompts of several lengths end in repeated words."""
    for i, kind in enumerate(KINDS):
        prompt = [(7 * i * j + j * j) % 200 + 12 for j in range(1, 4 + i % 9 * 4)]
        params = SamplingParams(max_new_tokens=NUM_TOKENS, seed=i, **kind)
        repeated = [50, 51, 50, 51, 50]
        yield Request(request_id=str(i), prompt_token_ids=prompt + repeated, params=params)


def play(engine: Engine) -> dict[str, list[int]]:
    """Run all requests together; return the tokens of each sequence by request and sequence."""
    tokens: dict[str, list[int]] = {}
    for request in requests():
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, RequestFailed):
                raise AssertionError(f"request {output.request_id}: {output.message}")
            tokens.setdefault(f"{output.request_id}/{output.sequence}", []).append(output.token_id)
    return tokens


def play_on(checkpoint: Path, device: str, dtype: str) -> dict[str, list[int]]:
    with pretended_cuda() if device == "cuda" else nullcontext():
        return play(load(checkpoint, device, dtype))
