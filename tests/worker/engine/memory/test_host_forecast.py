"""What loading takes of the host's memory, measured beside what was forecast.

Each way of loading in a process of its own, forked from one that has imported everything.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.engine import EngineConfig, Executor, Quantization
from worker.engine.memory.host_forecast import Way, forecast_host
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import plan_loading

MIB = 2**20
CONFIG = EngineConfig(num_blocks=64)
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
WAYS = [
    Way(FLOAT32, Executor.TORCH),
    Way(BFLOAT16, Executor.TORCH),
    Way(FLOAT32, Executor.TORCH, Quantization.INT8),
    Way(FLOAT32, Executor.TORCH, Quantization.INT8_WEIGHT_ONLY),
    Way(BFLOAT16, Executor.TORCH, Quantization.INT8_WEIGHT_ONLY),
    Way(FLOAT32, Executor.OPENVINO),
    Way(FLOAT32, Executor.OPENVINO, Quantization.INT8),
    Way(FLOAT32, Executor.OPENVINO, Quantization.INT8_WEIGHT_ONLY),
]

# Prints the peak of each way and what stays, in bytes that the kernel cannot drop. The children are
# forked before torch has started a thread.
MEASURE = """
import json, os, sys, threading
from worker.engine import Engine, EngineConfig, Executor, Quantization
from worker.host_memory import taken_bytes

folder, ways = sys.argv[1], json.loads(sys.argv[2])

def measure(dtype, executor, quantization):
    before = peak = taken_bytes()
    loaded = threading.Event()

    def watch():
        nonlocal peak
        while not loaded.wait(0.002):
            peak = max(peak, taken_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    engine = Engine.from_pretrained(
        folder,
        dtype=dtype,
        executor=Executor(executor),
        quantization=quantization and Quantization(quantization),
        num_threads=1,
        config=EngineConfig(num_blocks=64),
    )
    loaded.set()
    watcher.join()
    print(json.dumps([peak - before, taken_bytes() - before]), flush=True)

for way in ways:
    child = os.fork()
    if child == 0:
        try:
            measure(*way)
        except (ImportError, ValueError):  # without OpenVINO
            print(json.dumps(None), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 million weights: two fifths of them in the tied embeddings."""
    return write_random_checkpoint(
        tmp_path_factory.mktemp("mid"),
        hidden_size=1024,
        num_layers=4,
        num_heads=16,
        vocab_size=32_000,
        dtype=torch.bfloat16,
    )


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[Way, list[int]]:
    ways = [[str(w.dtype).removeprefix("torch."), w.executor, w.quantization] for w in WAYS]
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), json.dumps(ways)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    figures: list[Any] = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(figures) == len(WAYS), result.stderr
    return dict(zip(WAYS, figures, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and Linux's count of pages")
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_loading_takes_what_was_forecast(
    way: Way, folder: Path, measured: dict[Way, list[int]]
) -> None:
    """Never more, and no more than 15 % less but for 100 MiB of libraries."""
    if way.executor is Executor.OPENVINO:
        pytest.importorskip("openvino")
    plan = plan_loading(folder)
    told = forecast_host(way, plan.model, CONFIG, device=torch.device("cpu"))
    peak, resident = measured[way]
    print(f"{way}: peak {peak // MIB} of {told.loading_bytes // MIB} MiB", end="; ")
    print(f"then {resident // MIB} of {(told.resident_bytes + told.kv_bytes) // MIB}")
    assert 0.85 * told.loading_bytes - 100 * MIB <= peak <= told.needed_bytes
    least = 0.85 * told.resident_bytes - 100 * MIB
    assert least <= resident <= told.resident_bytes + told.kv_bytes
