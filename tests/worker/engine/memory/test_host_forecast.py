"""The host memory that loading takes, measured and compared with the forecast.

Each variant of loading in a process of its own, forked from a process that has imported everything.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.engine import EngineConfig, Executor, Quantization
from worker.engine.memory.host_forecast import LoadVariant, forecast_host
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import plan_loading
from worker.model.quantized_linears import quantized_weights

MIB = 2**20
CONFIG = EngineConfig(num_blocks=64)
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
VARIANTS = [
    LoadVariant(FLOAT32, Executor.TORCH),
    LoadVariant(BFLOAT16, Executor.TORCH),
    LoadVariant(FLOAT32, Executor.TORCH, Quantization.INT8),
    LoadVariant(FLOAT32, Executor.TORCH, Quantization.INT8_WEIGHT_ONLY),
    LoadVariant(BFLOAT16, Executor.TORCH, Quantization.INT8_WEIGHT_ONLY),
    LoadVariant(FLOAT32, Executor.OPENVINO),
    LoadVariant(BFLOAT16, Executor.OPENVINO),
    LoadVariant(FLOAT32, Executor.OPENVINO, Quantization.INT8),
    LoadVariant(FLOAT32, Executor.OPENVINO, Quantization.INT8_WEIGHT_ONLY),
    LoadVariant(FLOAT32, Executor.OPENVINO, Quantization.INT4),
]

# Prints each variant's peak and what stays, in bytes that the kernel cannot drop. The children
# are forked before torch has started a thread.
MEASURE = """
import json, os, sys, threading
from worker.engine import Engine, EngineConfig, Executor, Quantization
from worker.host_memory import taken_bytes

folder, variants = sys.argv[1], json.loads(sys.argv[2])

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

for variant in variants:
    child = os.fork()
    if child == 0:
        try:
            measure(*variant)
        except (ImportError, ValueError):  # without OpenVINO, or bfloat16
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
def measured(folder: Path) -> dict[LoadVariant, list[int] | None]:
    variants = [[str(w.dtype).removeprefix("torch."), w.executor, w.quantization] for w in VARIANTS]
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), json.dumps(variants)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    figures: list[Any] = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(figures) == len(VARIANTS), result.stderr
    return dict(zip(VARIANTS, figures, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and Linux's count of pages")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_loading_takes_what_was_forecast(
    variant: LoadVariant, folder: Path, measured: dict[LoadVariant, list[int] | None]
) -> None:
    """Never more, and no more than 15 % less but for 100 MiB of libraries."""
    if variant.executor is Executor.OPENVINO:
        pytest.importorskip("openvino")
    plan = plan_loading(folder)
    unread = quantized_weights(plan.model, variant.quantization)
    forecast = forecast_host(
        variant,
        plan.model,
        CONFIG,
        device=torch.device("cpu"),
        embeddings_dtype=plan.embeddings_dtype(variant.dtype, unread),
    )
    if measured[variant] is None:
        pytest.skip("this CPU lacks bfloat16")
    peak, resident = measured[variant]
    print(f"{variant}: peak {peak // MIB} of {forecast.loading_bytes // MIB} MiB", end="; ")
    print(f"then {resident // MIB} of {(forecast.resident_bytes + forecast.kv_bytes) // MIB}")
    assert 0.85 * forecast.loading_bytes - 100 * MIB <= peak <= forecast.needed_bytes
    least = 0.85 * forecast.resident_bytes - 100 * MIB
    assert least <= resident <= forecast.resident_bytes + forecast.kv_bytes
