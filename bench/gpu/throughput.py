"""Measure a whole engine on the mixed workload, and transformers' `generate` in static batches.

Both are warmed up by a batch of other prompts, so that no prompt is in the prefix cache.
"""

import time
from pathlib import Path
from typing import Any

import torch

from bench.engine.replay import replay
from bench.gpu.card import synchronize
from bench.gpu.scale import Scale, serving_dtype
from bench.peers.exchange import PeerRequest
from bench.peers.transformers import generate_in_batches
from bench.report import Report
from bench.workloads import GREEDY, drawn_lengths
from worker.engine import Engine, Request, SamplingParams

BATCH_SIZE = 32  # of `generate`
WARM_UP_TOKENS = 4


def measure_throughput(engine: Engine, scale: Scale) -> float:
    """Return output tokens per second of the engine with all requests added at the start."""
    vocab_size = engine.model_config.vocab_size
    replay_at_once(engine, warm_up_requests(vocab_size))
    summary = replay_at_once(engine, workload(vocab_size, scale)).summary()
    if summary["failed"]:
        raise RuntimeError(f"{summary['failed']} requests of the workload failed")
    tokens_per_s: float = summary["tokens_per_s"]
    return tokens_per_s


def measure_generate(checkpoint: Path, scale: Scale, device: torch.device) -> float:
    """Return output tokens per second of `generate`, without tokens that no request asked for."""
    from transformers import AutoModelForCausalLM

    dtype = serving_dtype(device)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    model.to(device)
    model.generation_config.eos_token_id = (
        None  # passed as an argument, None means the checkpoint's
    )
    requests = workload(model.config.vocab_size, scale)
    generate_in_batches(model, warm_up_requests(model.config.vocab_size), BATCH_SIZE)
    synchronize(device)
    started = time.perf_counter()
    outputs = generate_in_batches(model, requests, BATCH_SIZE)
    return sum(map(len, outputs)) / (time.perf_counter() - started)


def workload(vocab_size: int, scale: Scale) -> list[PeerRequest]:
    """Return requests with random lengths of prompt and output."""
    items = drawn_lengths(GREEDY, vocab_size=vocab_size, num_requests=scale.num_requests)
    return [
        PeerRequest(item.prompt_ids or [], item.generate_kwargs["max_new_tokens"]) for item in items
    ]


def warm_up_requests(vocab_size: int) -> list[PeerRequest]:
    """Return a batch of other prompts with a few new tokens each."""
    items = drawn_lengths(GREEDY, vocab_size=vocab_size, num_requests=BATCH_SIZE, seed=1)
    return [PeerRequest(item.prompt_ids or [], WARM_UP_TOKENS) for item in items]


def replay_at_once(engine: Engine, requests: list[PeerRequest]) -> Report:
    """Run all requests at once."""
    own = [
        Request(
            request_id=str(number),
            prompt_token_ids=request.prompt_ids,
            params=SamplingParams(max_new_tokens=request.num_new),
        )
        for number, request in enumerate(requests)
    ]
    return replay(engine, own, len(own))
