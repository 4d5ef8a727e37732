"""Run requests of every kind of parameters through one engine, and record their tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.worker.engine.pretended_cuda.device import pretended_cuda
from worker.engine import (
    DecoderLayers,
    Engine,
    EngineConfig,
    Executor,
    Request,
    RequestFailed,
    SamplingParams,
)
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.checkpoint.weights import load_model
from worker.model.falcon import FalconDecoderLayer
from worker.model.fused.fusing import fuse
from worker.model.fused.interface import PlainKernels
from worker.model.fused.layer import FusedNetwork
from worker.model.tokenizer.tokenizer_files import load_tokenizer

LIMITS = EngineConfig(
    max_rows=64, num_blocks=400, block_size=4, max_step_tokens=96, max_chunk_tokens=16
)
NUM_TOKENS = 6
STYLES = ("7b", "40b", "11b", "rw")
FUSED, SEPARATE = DecoderLayers.FUSED, DecoderLayers.SEPARATE
# Layers on the GPU and their dtype. In float32 both kinds have the same roundings.
PLAYED = ((FUSED, "float32"), (FUSED, "bfloat16"), (SEPARATE, "bfloat16"))

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


def load(
    checkpoint: Path,
    device: str,
    dtype: str,
    config: EngineConfig = LIMITS,
    layers: DecoderLayers = FUSED,
) -> Engine:
    return Engine.from_pretrained(
        str(checkpoint),
        dtype=dtype,
        device=device,
        executor=Executor.TORCH,
        layers=layers,
        config=config,
    )


def load_merged(checkpoint: Path) -> Engine:
    """Return an engine on the CPU that rounds bfloat16 as merged products do."""
    model = load_model(str(checkpoint), dtype=torch.bfloat16, device=torch.device("cpu"))
    model.transformer.fused = FusedNetwork(
        [
            fuse(layer, PlainKernels())
            for layer in model.transformer.h
            if isinstance(layer, FalconDecoderLayer)
        ]
    )
    assert LIMITS.num_blocks is not None
    return Engine(
        runner=ModelRunner.with_cache(
            model, num_blocks=LIMITS.num_blocks, block_size=LIMITS.block_size
        ),
        tokenizer=load_tokenizer(checkpoint),
        model_config=model.config,
        config=LIMITS,
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


def play_on(
    checkpoint: Path, device: str, layers: DecoderLayers, dtype: str
) -> dict[str, list[int]]:
    """Return the tokens of a GPU, or of a CPU with the same roundings."""
    if device == "cuda":
        with pretended_cuda():
            return play(load(checkpoint, device, dtype, layers=layers))
    is_merged = layers is FUSED and dtype == "bfloat16"
    return play(load_merged(checkpoint) if is_merged else load(checkpoint, device, dtype))
