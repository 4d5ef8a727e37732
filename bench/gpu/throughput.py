"""A whole engine on the mixed workload, beside transformers' `generate` in static batches of 32.

Also how it loaded, and how much of a decoding step the device had nothing to do.
"""

import time
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu.card import synchronize
from bench.gpu.scale import Scale, serving_dtype
from bench.mixes import FIRST_WORD_ID, GREEDY, drawn_lengths
from bench.peers.exchange import PeerRequest
from bench.peers.transformers import generate_in_batches
from bench.replay import replay
from bench.workload import WorkItem
from worker.engine import Engine, EngineConfig, Executor, Request, SamplingParams
from worker.model.config import DTYPES
from worker.model.random_checkpoint import write_random_checkpoint

BATCH_SIZE = 32  # of `generate`
MAX_ROWS = 64
PROFILED_STEPS = 10
NUM_KERNELS = 15  # in the table


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel, or on a CPU one operator, over all profiled steps."""

    name: str
    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """`busy_s` of the `wall_s` the device worked; None on a CPU, where nobody waits for it."""

    wall_s: float
    busy_s: float | None
    kernels: list[Kernel]

    @property
    def idle_share(self) -> float | None:
        return None if self.busy_s is None else 1 - self.busy_s / self.wall_s


def ensure_checkpoint(folder: Path, scale: Scale) -> Path:
    """A random falcon-7b on disk; of the published size it takes 14 GB and some minutes, once."""
    path = folder / ("7b" if scale.full_size else "7b-small")
    if not (path / "config.json").is_file():
        dtype = torch.bfloat16 if scale.full_size else torch.float32
        write_random_checkpoint(path, like="7b", full_size=scale.full_size, dtype=dtype)
    return path


def load_engine(checkpoint: Path, device: torch.device) -> Engine:
    return Engine.from_pretrained(
        str(checkpoint),
        dtype=_dtype_name(device),
        device=str(device),
        executor=Executor.TORCH,
        config=EngineConfig(max_rows=MAX_ROWS, max_chunk_tokens=512),
    )


def measure_throughput(engine: Engine, scale: Scale) -> float:
    """Output tokens per second of the engine, all requests there from the start."""
    items = _workload(engine.model_config.vocab_size, scale)
    requests = [_request(str(number), item) for number, item in enumerate(items)]
    replay(engine, requests[:1], 1)
    summary = replay(engine, requests, len(requests)).summary()
    if summary["failed"]:
        raise RuntimeError(f"{summary['failed']} requests of the workload failed")
    tokens_per_s: float = summary["tokens_per_s"]
    return tokens_per_s


def measure_generate(checkpoint: Path, scale: Scale, device: torch.device) -> float:
    """The same of `generate`; what a row makes past what it was asked for does not count."""
    from transformers import AutoModelForCausalLM

    dtype = serving_dtype(device)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    model.to(device)
    model.generation_config.eos_token_id = None  # as an argument, None means the checkpoint's
    items = _workload(model.config.vocab_size, scale)
    requests = [
        PeerRequest(item.prompt_ids or [], item.generate_kwargs["max_new_tokens"]) for item in items
    ]
    generate_in_batches(model, [PeerRequest(requests[0].prompt_ids, 2)], 1)
    synchronize(device)
    started = time.perf_counter()
    outputs = generate_in_batches(model, requests, BATCH_SIZE)
    return sum(map(len, outputs)) / (time.perf_counter() - started)


def profile_decoding(engine: Engine, scale: Scale, device: torch.device) -> Profile:
    """Some steps in which all rows decode, sampling and text included."""
    _start_decoding(engine, scale)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as profiler:
        synchronize(device)
        started = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            engine.step()
        synchronize(device)
        wall_s = time.perf_counter() - started
    for number in range(scale.profiled_rows):
        engine.abort(str(number))
    return _read(profiler, wall_s, on_gpu=on_gpu)


def _start_decoding(engine: Engine, scale: Scale) -> None:
    """Prompts that differ from their first token on: none is to share another's keys."""
    num_rows = scale.profiled_rows
    params = SamplingParams(max_new_tokens=scale.context)
    for number in range(num_rows):
        first = FIRST_WORD_ID + number
        prompt_ids = list(range(first, first + scale.context))
        engine.add(Request(request_id=str(number), prompt_token_ids=prompt_ids, params=params))
    while not engine.last_step.num_rows == engine.last_step.num_tokens == num_rows:
        engine.step()


def _read(profiler: profile, wall_s: float, *, on_gpu: bool) -> Profile:
    """Each kernel's own time; on a GPU operators that only launch some do not count."""
    where = "CUDA" if on_gpu else "CPU"
    events: Any = profiler.key_averages()  # without types
    own_us = attrgetter("self_device_time_total" if on_gpu else "self_cpu_time_total")
    kernels = [
        Kernel(event.key, event.count, own_us(event) / 1e6)
        for event in events
        if event.device_type.name == where
    ]
    kernels.sort(key=lambda kernel: kernel.seconds, reverse=True)
    busy_s = sum(kernel.seconds for kernel in kernels) if on_gpu else None
    return Profile(wall_s, busy_s, kernels[:NUM_KERNELS])


def _workload(vocab_size: int, scale: Scale) -> list[WorkItem]:
    return drawn_lengths(GREEDY, vocab_size=vocab_size, num_requests=scale.num_requests)


def _request(request_id: str, item: WorkItem) -> Request:
    params = SamplingParams(max_new_tokens=item.generate_kwargs["max_new_tokens"])
    return Request(request_id=request_id, prompt_token_ids=item.prompt_ids or [], params=params)


def _dtype_name(device: torch.device) -> str:
    dtype = serving_dtype(device)
    return next(name for name, known in DTYPES.items() if known is dtype)
