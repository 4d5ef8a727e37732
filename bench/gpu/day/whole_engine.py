"""Measure whole engines on random weights that are made on the device: no checkpoint is written."""

import gc
import time
from dataclasses import asdict
from itertools import product
from typing import Any

import torch
from rich.table import Table

from bench.gpu.card import Card, synchronize
from bench.gpu.day.schedule import Result
from bench.gpu.floor import StepCost, decode_cost, prefill_cost
from bench.gpu.graphs import capture_or_repeat, compare_tokens
from bench.gpu.profiling import NUM_STEPS, Profile, profile_decoding
from bench.gpu.scale import Scale, serving_dtype
from bench.gpu.steps import BLOCK_SIZE, packed_step, random_network, time_step
from bench.gpu.tables import profile_table, steps_table
from bench.gpu.throughput import BATCH_SIZE, replay_at_once, warm_up_requests, workload
from bench.peers.exchange import PeerRequest
from bench.peers.transformers import generate_in_batches
from worker.engine import CudaGraphs, Engine, EngineConfig, SamplingParams
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.checkpoint.random_checkpoint import config_fields
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.tokenizer.tokenizer_files import load_tokenizer

LIKE = "7b"
KINDS = {
    "greedy": SamplingParams(),
    "top_k, top_p": SamplingParams(do_sample=True, top_k=50, top_p=0.95),
    "logprobs": SamplingParams(logprobs=True, top_logprobs=5),
}
MIXED_ROWS, SHORT_CHUNK = 64, 512


class Lab:
    """A network on the device, for the parts that share it."""

    def __init__(self, scale: Scale, card: Card, device: torch.device) -> None:
        self._scale = scale
        self._card = card
        self._device = device
        self._config = scale.model_config(LIKE)
        self._dtype = serving_dtype(device)
        self._model = random_network(self._config, self._dtype, device)

    def engine(self, max_rows: int, graphs: CudaGraphs = CudaGraphs.AUTO) -> Engine:
        """Return an engine with room for `max_rows` sequences of twice the measured context."""
        per_row = -(-2 * (self._scale.context + 1) // BLOCK_SIZE)
        num_blocks = max(max_rows * per_row, -(-self._config.context_length // BLOCK_SIZE))
        config = EngineConfig(
            max_rows=max_rows,
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            max_step_tokens=max(2048, max_rows),
            max_chunk_tokens=512,
        )
        runner = ModelRunner.with_cache(
            self._model, num_blocks=num_blocks, block_size=BLOCK_SIZE, num_padding_blocks=1
        )
        runner.warm_up(config)
        return Engine(
            runner=runner,
            tokenizer=load_tokenizer(bundled_checkpoint()),  # text costs the same time with any
            model_config=self._config,
            config=config,
            decoder=capture_or_repeat(runner, config, graphs),
        )

    def decode(self) -> Result:
        """Measure whole engine steps, and how long the device is idle in them.

        With CUDA graphs and with launches.
        """
        profiles: dict[tuple[int, str, str], Profile] = {}
        counts = sorted({min(64, max(self._scale.rows)), max(self._scale.rows)})
        for num_rows, graphs in product(counts, CudaGraphs):
            engine = self.engine(num_rows, graphs)
            way = "launches" if engine.decoder is None else "graph"
            for kind, params in KINDS.items():
                profiles[num_rows, kind, way] = profile_decoding(
                    engine, self._scale, self._device, num_rows=num_rows, params=params
                )
            del engine
            free_memory()
        table = Table("engine: rows", "parameters", "by", "ms a step", "tokens/s", "idle", box=None)
        figures = []
        for (num_rows, kind, way), profile in profiles.items():
            step_s = profile.wall_s / NUM_STEPS
            idle = "unknown" if profile.idle_share is None else f"{profile.idle_share:.0%}"
            rate = num_rows / step_s
            table.add_row(str(num_rows), kind, way, f"{1000 * step_s:.2f}", f"{rate:,.0f}", idle)
            own = {"num_rows": num_rows, "kind": kind, "idle_share": profile.idle_share, "by": way}
            figures.append(own | asdict(profile))
        return Result(figures, [table, profile_table(next(iter(profiles.values())))])

    def graphs(self) -> Result:
        """Compare the tokens of steps in CUDA graphs with steps of launches."""
        most = max(self._scale.rows)
        captured, launched = self.engine(most), self.engine(most, CudaGraphs.OFF)
        figures, table = compare_tokens(captured, launched, most)
        return Result(figures, [table])

    def prefill(self) -> Result:
        """Measure chunks of prompts, and a step of decoding rows with a chunk."""
        scale, config, dtype = self._scale, self._config, self._dtype
        rows, short = min(MIXED_ROWS, max(scale.rows)), min(SHORT_CHUNK, scale.chunk)
        decoding, chunk = [(scale.context - 1, 1)] * rows, (0, short)
        alone = decode_cost(config, dtype, num_rows=rows, context=scale.context)
        of_chunk = prefill_cost(config, dtype, num_tokens=short)
        mixed = StepCost(
            max(alone.num_bytes, of_chunk.num_bytes), alone.num_flop + of_chunk.num_flop
        )
        longest = prefill_cost(config, dtype, num_tokens=scale.chunk)
        steps = [
            ("prefill", [chunk], of_chunk),
            ("prefill", [(0, scale.chunk)], longest),
            ("mixed", [*decoding, chunk], mixed),
        ]
        num_tokens = max(scale.chunk, rows * (scale.context + BLOCK_SIZE) + short)
        runner = ModelRunner.with_cache(
            self._model, num_blocks=1 + num_tokens // BLOCK_SIZE + rows, block_size=BLOCK_SIZE
        )
        times = [
            time_step(
                kind,
                runner,
                packed_step(chunks, config.vocab_size),
                cost,
                self._card,
                scale.repeats,
            )
            for kind, chunks, cost in steps
        ]
        return Result([time.to_json() for time in times], [steps_table(LIKE, times)])

    def mixed_workload(self) -> Result:
        """Measure requests of random lengths, by the engine and by `generate` on its weights."""
        requests = workload(self._config.vocab_size, self._scale)
        engine = self.engine(max(self._scale.rows))
        _replay(engine, warm_up_requests(self._config.vocab_size))
        started = time.perf_counter()
        num_tokens = _replay(engine, requests)
        ours = num_tokens / (time.perf_counter() - started)
        del engine
        free_memory()
        theirs = self._generate(requests)
        table = Table("mixed workload", "tokens/s", box=None)
        table.add_row("falconer", f"{ours:,.0f}")
        table.add_row(f"generate, batches of {BATCH_SIZE}", f"{theirs:,.0f}")
        return Result({"falconer": ours, "generate": theirs}, [table])

    def _generate(self, requests: list[PeerRequest]) -> float:
        from transformers import FalconConfig, FalconForCausalLM

        fields = config_fields(LIKE, full_size=self._scale.full_size)
        with torch.device("meta"):
            model: Any = FalconForCausalLM(FalconConfig(**fields))
        model.load_state_dict(self._model.state_dict(), strict=False, assign=True)
        with torch.device(self._device):
            model.transformer.rotary_emb = type(model.transformer.rotary_emb)(model.config)
        model.eval()
        model.generation_config.eos_token_id = None
        generate_in_batches(model, warm_up_requests(self._config.vocab_size), BATCH_SIZE)
        synchronize(self._device)
        started = time.perf_counter()
        outputs = generate_in_batches(model, requests, BATCH_SIZE)
        return sum(map(len, outputs)) / (time.perf_counter() - started)


def free_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _replay(engine: Engine, requests: list[PeerRequest]) -> int:
    """Run all requests at once; return their number of tokens."""
    summary = replay_at_once(engine, requests).summary()
    if summary["failed"]:
        raise RuntimeError(f"{summary['failed']} requests of the workload failed")
    return sum(request.num_new for request in requests)
