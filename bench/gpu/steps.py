"""Measure forward passes of decoding and prefill on random weights, and compare with their floor.

Runs the engine's `ModelRunner` on packed steps without a scheduler: kind `decode` by launches, kind
`graph` as the engine decodes on a GPU, with the best token of each row.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.gpu.card import Card, median_s
from bench.gpu.floor import StepCost, decode_cost, prefill_cost
from bench.gpu.graphs import capture_or_repeat
from bench.gpu.scale import Scale, serving_dtype
from worker.engine import EngineConfig
from worker.engine.execution.packed_batch import PackedStep
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.checkpoint.weights import EMBEDDINGS, LM_HEAD
from worker.model.config import ModelConfig
from worker.model.falcon import FalconForCausalLM
from worker.model.fused.fusing import DecoderLayers, fuse_layers

BLOCK_SIZE = 32
WEIGHT_STD = 0.02  # small enough that values stay finite over sixty layers


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time of one kind of step; `of_floor` is 1.0 for a step as fast as its floor."""

    kind: str
    num_rows: int
    num_tokens: int
    step_s: float
    floor_s: float
    moved_bytes_per_s: float
    flop_per_s: float

    @property
    def of_floor(self) -> float:
        return self.floor_s / self.step_s

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"of_floor": self.of_floor}


def measure_steps(
    like: str,
    scale: Scale,
    card: Card,
    device: torch.device,
    layers: DecoderLayers = DecoderLayers.FUSED,
) -> list[StepTime]:
    """Measure decoding at each number of rows, and one chunk of a prompt."""
    config, dtype = scale.model_config(like), serving_dtype(device)
    model = random_network(config, dtype, device, layers)
    longest = max(max(scale.rows) * scale.context, scale.chunk)
    runner = ModelRunner.with_cache(
        model,
        num_blocks=-(-longest // BLOCK_SIZE) + max(scale.rows),
        block_size=BLOCK_SIZE,
        num_padding_blocks=1,
    )
    most = max(scale.rows)
    decoder = capture_or_repeat(runner, EngineConfig(max_rows=most, max_step_tokens=2 * most))
    times = []
    for rows in scale.rows:
        step = packed_step([(scale.context - 1, 1)] * rows, config.vocab_size)
        cost = decode_cost(config, dtype, num_rows=rows, context=scale.context)
        times.append(time_step("decode", runner, step, cost, card, scale.repeats))
        if decoder is not None:
            launch = partial(decoder.launch, sequences=[])
            times.append(time_step("graph", runner, step, cost, card, scale.repeats, launch))
    step = packed_step([(0, scale.chunk)], config.vocab_size)
    cost = prefill_cost(config, dtype, num_tokens=scale.chunk)
    return [*times, time_step("prefill", runner, step, cost, card, scale.repeats)]


def random_network(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    layers: DecoderLayers = DecoderLayers.FUSED,
) -> FalconForCausalLM:
    """Return a network of the published shape, created on the device without a checkpoint."""
    with torch.device("meta"):
        model = FalconForCausalLM(config)
    tensors = {
        name: torch.empty(tensor.shape, dtype=dtype, device=device).normal_(std=WEIGHT_STD)
        for name, tensor in model.state_dict().items()
    }
    if config.tie_word_embeddings:
        tensors[LM_HEAD] = tensors[EMBEDDINGS]
    model.load_state_dict(tensors, assign=True)
    tensors.clear()  # else the parts of merged weights would stay in memory
    model.to(device).eval().requires_grad_(False)
    fuse_layers(model, layers)
    return model


def packed_step(chunks: list[tuple[int, int]], vocab_size: int) -> PackedStep:
    """Return a packed step of chunks (cached tokens, new tokens) in separate blocks, all logits."""
    past_lens, lengths = np.array(chunks, dtype=np.int32).T
    num_blocks = -(-(past_lens + lengths) // BLOCK_SIZE)
    cu_seqlens_q, block_begins = (
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        for counts in (lengths, num_blocks)
    )
    positions = [np.arange(past, past + new) for past, new in chunks]
    return PackedStep(
        token_ids=np.random.default_rng(0).integers(vocab_size, size=cu_seqlens_q[-1]),
        positions=np.concatenate(positions),
        sampled=(cu_seqlens_q[1:] - 1).astype(np.int64),
        past_lens=past_lens,
        cu_seqlens_q=cu_seqlens_q,
        block_indices=np.arange(block_begins[-1], dtype=np.int32),
        block_begins=block_begins,
        adapters=[None] * len(chunks),
    )


def time_step(
    kind: str,
    runner: ModelRunner,
    step: PackedStep,
    cost: StepCost,
    card: Card,
    repeats: int,
    compute: Callable[[PackedStep], object] | None = None,
) -> StepTime:
    """Time a step of the runner, or of `compute`, and compare it with the floor of its cost."""
    call = partial(compute or runner.compute, step)
    step_s = median_s(call, runner.kv_caches[0].keys.device, repeats)
    return StepTime(
        kind=kind,
        num_rows=len(step.past_lens),
        num_tokens=len(step.token_ids),
        step_s=step_s,
        floor_s=cost.floor_s(card),
        moved_bytes_per_s=cost.num_bytes / step_s,
        flop_per_s=cost.num_flop / step_s,
    )
