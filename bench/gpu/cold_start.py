"""Measure the time from a checkpoint on disk to the first token, and the time to read its files.

Measured with an empty page cache and with a full one. Imports and the start of the device do not
count.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.gpu.scale import serving_dtype
from bench.workloads import FIRST_WORD_ID
from worker.engine import Engine, EngineConfig, Executor, Request, SamplingParams
from worker.engine.loading.report import LoadReport
from worker.model.checkpoint.shards import find_shards
from worker.model.config import DTYPES

NUM_READERS = 16  # a single reader does not saturate a fast disk
PART_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class ColdStart:
    """The times of a load; both start with the files in the state that `state` names."""

    state: str
    num_bytes: int
    read_s: float  # of the files alone
    first_token_s: float  # from the start of the load to the first token of a prompt
    report: LoadReport

    @property
    def of_read_rate(self) -> float:
        return self.read_s / self.first_token_s

    def to_json(self) -> dict[str, Any]:
        own = asdict(self) | {"of_read_rate": self.of_read_rate}
        return own | {"report": self.report.to_log()}


def measure_cold_start(checkpoint: Path, device: torch.device) -> ColdStart:
    """Measure with an empty page cache."""
    return _measure(checkpoint, device, "cold", evict)[0]


def measure_cached_start(checkpoint: Path, device: torch.device) -> tuple[ColdStart, Engine]:
    """Measure with a full page cache; also return the engine, for other measurements."""
    return _measure(checkpoint, device, "cached", read_whole)


def _measure(
    checkpoint: Path, device: torch.device, state: str, prepare: Callable[[list[Path]], None]
) -> tuple[ColdStart, Engine]:
    files = find_shards(checkpoint)
    prepare(files)
    read_s = _seconds(lambda: read_whole(files))
    prepare(files)
    started = time.perf_counter()
    engine = load_engine(checkpoint, device)
    _compute_first_token(engine)
    first_token_s = time.perf_counter() - started
    num_bytes = sum(file.stat().st_size for file in files)
    return ColdStart(state, num_bytes, read_s, first_token_s, engine.load_report), engine


def load_engine(checkpoint: Path, device: torch.device) -> Engine:
    dtype = serving_dtype(device)
    return Engine.from_pretrained(
        str(checkpoint),
        dtype=next(name for name, known in DTYPES.items() if known is dtype),
        device=str(device),
        executor=Executor.TORCH,
        config=EngineConfig.for_machine(str(device)),
    )


def evict(files: list[Path]) -> None:
    """Drop files from the page cache (Linux only), after writing them to the disk."""
    os.sync()
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(files: list[Path]) -> None:
    """Read every byte of the files, several parts concurrently."""
    parts = [(file, begin) for file in files for begin in range(0, file.stat().st_size, PART_BYTES)]
    with ThreadPoolExecutor(NUM_READERS) as readers:
        list(readers.map(_read_part, parts))


def _read_part(part: tuple[Path, int]) -> None:
    file, begin = part
    with file.open("rb", buffering=0) as opened:
        opened.seek(begin)
        opened.read(PART_BYTES)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _compute_first_token(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=1)
    engine.add(Request(request_id="first", prompt_token_ids=[FIRST_WORD_ID] * 16, params=params))
    while engine.has_work:
        engine.step()
