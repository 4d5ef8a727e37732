"""How long a checkpoint takes from disk to its first token, beside reading its files and no more.

Cold, with no byte of it in the page cache, and from the cache. The process is up already: neither
Python's imports nor the device's own start count.
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

MAX_ROWS = 64
NUM_READERS = 16  # one alone does not keep a fast disk busy
PIECE_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Both times begin with the files in the same state, which `state` names."""

    state: str
    num_bytes: int
    read_s: float  # of the files, nothing else
    first_token_s: float  # from the call that loads until a prompt's first token
    report: LoadReport

    @property
    def of_read_rate(self) -> float:
        return self.read_s / self.first_token_s

    def to_json(self) -> dict[str, Any]:
        own = asdict(self) | {"of_read_rate": self.of_read_rate}
        return own | {"report": self.report.to_log()}


def measure_cold_start(checkpoint: Path, device: torch.device) -> ColdStart:
    return _measure(checkpoint, device, "cold", evict)[0]


def measure_cached_start(checkpoint: Path, device: torch.device) -> tuple[ColdStart, Engine]:
    """Also the engine: others may go on with it."""
    return _measure(checkpoint, device, "cached", read_whole)


def _measure(
    checkpoint: Path, device: torch.device, state: str, bring_about: Callable[[list[Path]], None]
) -> tuple[ColdStart, Engine]:
    files = find_shards(checkpoint)
    bring_about(files)
    read_s = _seconds(lambda: read_whole(files))
    bring_about(files)
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
        config=EngineConfig(max_rows=MAX_ROWS, max_chunk_tokens=512),
    )


def evict(files: list[Path]) -> None:
    """Put files out of the page cache (Linux), which only lets go of what is on the disk."""
    os.sync()
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(files: list[Path]) -> None:
    """Read every byte and keep none, several pieces at once."""
    pieces = [
        (file, begin) for file in files for begin in range(0, file.stat().st_size, PIECE_BYTES)
    ]
    with ThreadPoolExecutor(NUM_READERS) as readers:
        list(readers.map(_read_piece, pieces))


def _read_piece(piece: tuple[Path, int]) -> None:
    file, begin = piece
    with file.open("rb", buffering=0) as opened:
        opened.seek(begin)
        opened.read(PIECE_BYTES)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _compute_first_token(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=1)
    engine.add(Request(request_id="first", prompt_token_ids=[FIRST_WORD_ID] * 16, params=params))
    while engine.has_work:
        engine.step()
