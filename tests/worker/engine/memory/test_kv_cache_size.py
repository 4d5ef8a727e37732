"""The number of KV cache blocks, and the forecast of the memory that a model takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.fakes import engine_on_fake_runner
from worker import host_memory
from worker.engine import EngineConfig
from worker.engine.execution.executor import Executor
from worker.engine.memory.host_forecast import PROCESS_BYTES, LoadVariant, forecast_host, meta_model
from worker.engine.memory.kv_cache_size import (
    MemoryPlan,
    choose_num_blocks,
    forecast_cpu,
    forecast_gpu,
    free_memory,
)
from worker.model.checkpoint.random_checkpoint import config_fields, write_random_checkpoint
from worker.model.config import ModelConfig

GIB = 2**30
CPU = torch.device("cpu")
MANY_ROWS = EngineConfig(max_rows=10**6, max_step_tokens=10**6)
MODEL = engine_on_fake_runner(
    context_length=100
).model_config  # one layer, one KV head of 4: 32 bytes/token
BYTES_PER_BLOCK = 16 * 32


def choose(config: EngineConfig, free_bytes: int = 2**30, step_bytes: int = 0) -> int:
    return choose_num_blocks(
        config, MODEL, torch.float32, CPU, free_bytes=free_bytes, step_bytes=step_bytes
    )


def test_a_given_number_of_blocks_is_used() -> None:
    assert choose(EngineConfig(num_blocks=3)) == 3


def test_the_kv_cache_holds_every_row_at_its_full_length() -> None:
    assert choose(EngineConfig(max_rows=5, block_size=16)) == 5 * 7


def test_rows_that_a_cpu_chooses_share_the_blocks_of_32_full_sequences() -> None:
    chosen, given = EngineConfig.for_machine("cpu"), EngineConfig.for_machine("cpu", max_rows=128)
    assert (chosen.max_rows, given.max_rows) == (128, 128)
    assert choose(chosen) == 32 * 4  # blocks of 32 tokens
    assert choose(given) == 128 * 4


def test_the_kv_cache_takes_at_most_half_of_the_free_memory() -> None:
    assert choose(EngineConfig(block_size=16), 2 * 10 * BYTES_PER_BLOCK + 1) == 10


def test_the_memory_of_a_step_stays_free() -> None:
    free_bytes, step_bytes = 20 * BYTES_PER_BLOCK, 14 * BYTES_PER_BLOCK
    assert choose(EngineConfig(block_size=16), free_bytes, step_bytes) == 6


def test_memory_too_small_for_one_block_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="no memory left for a KV cache on cpu"):
        choose(EngineConfig(), 100)


def test_a_containers_limit_counts_as_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "memory_left", lambda: 1000)
    assert free_memory(CPU) == 1000


def test_a_limit_is_shared_by_the_processes_of_a_split_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_memory, "taken_bytes", lambda: 30)
    assert free_memory(CPU, 400, num_parts=4) == 4 * 70
    assert free_memory(CPU, 100, num_parts=4) == 0


def published(like: str) -> ModelConfig:
    return ModelConfig.from_dict(config_fields(like, full_size=True))


def plan(like: str, gib: int, config: EngineConfig = MANY_ROWS) -> MemoryPlan:
    return forecast_gpu(published(like), config, dtype=torch.bfloat16, memory_bytes=gib * GIB)


@pytest.mark.parametrize(
    ("like", "gib", "weights", "kv_per_token"),
    [  # weights as published; 2 x layers x KV heads x 64 x 2 bytes
        ("7b", 80, 13_843_441_408, 2 * 32 * 1 * 64 * 2),
        ("40b", 139, 82_606_587_904, 2 * 60 * 8 * 64 * 2),
        ("rw", 24, 2_623_250_432, 2 * 24 * 32 * 64 * 2),
    ],
)
def test_the_forecast_of_the_published_models_follows_from_their_shapes(
    like: str, gib: int, weights: int, kv_per_token: int
) -> None:
    """Blocks of 32 tokens in 85 % of the memory that weights and half a GiB for CUDA leave."""
    forecast = plan(like, gib)
    assert forecast.weight_bytes == weights
    assert forecast.kv_bytes_per_token == kv_per_token
    left = gib * GIB - weights - GIB // 2
    assert forecast.num_blocks == int(0.85 * left) // (32 * kv_per_token)


def test_sequences_of_any_length_take_whole_blocks() -> None:
    forecast = MemoryPlan(
        weight_bytes=1, kv_bytes_per_token=10, context_length=2048, block_size=32, num_blocks=10
    )
    assert [forecast.rows_of(length) for length in (32, 33, 320, 321)] == [10, 5, 1, 0]
    assert (forecast.kv_tokens, forecast.kv_bytes) == (320, 3200)


def test_the_kv_cache_is_no_larger_than_the_rows_need() -> None:
    assert plan("7b", 80, EngineConfig(max_rows=4)).num_blocks == 4 * 2048 // 32


def test_weights_that_do_not_fit_leave_no_memory_for_a_block() -> None:
    with pytest.raises(ValueError, match="no memory left for a KV cache on cuda"):
        plan("40b", 70)


# Runs in a process of its own: after other tests, freed memory would be reused.
MEASURED_LOAD = """
import json, sys
from pathlib import Path
import torch
from worker import host_memory
from worker.engine import Engine, EngineConfig, Executor
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.checkpoint.weights import load_model

def resident_bytes():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

folder, limit = sys.argv[1], int(sys.argv[2])
load_model(str(bundled_checkpoint()), device=torch.device("cpu"))  # libraries take memory once
before = resident_bytes()
host_memory.memory_left = lambda: limit - (resident_bytes() - before)
engine = Engine.from_pretrained(
    folder,
    dtype="float32",
    executor=Executor.TORCH,
    config=EngineConfig(max_rows=512),
)
memory = engine.load_report.memory
assert memory.kv_tokens == engine.total_kv_tokens
print(json.dumps([memory.weight_bytes, memory.kv_bytes_per_token, memory.num_blocks]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_an_engine_takes_what_was_forecast(tmp_path: Path) -> None:
    """In a container of 3 GB that runs nothing else; 0.2 GB are weights."""
    limit = 3_000_000_000
    write_random_checkpoint(
        tmp_path, like="7b", hidden_size=768, num_layers=8, num_heads=12, vocab_size=8000
    )
    model_config = ModelConfig.from_checkpoint(tmp_path)
    config = EngineConfig(max_rows=512)
    variant = LoadVariant(torch.float32, Executor.TORCH)
    forecast = forecast_cpu(
        model_config,
        config,
        forecast_host(variant, meta_model(model_config), config, device=CPU),
        memory_bytes=limit + PROCESS_BYTES,
        weight_bytes=4 * model_config.num_parameters,
    )
    result = subprocess.run(
        [sys.executable, "-c", MEASURED_LOAD, str(tmp_path), str(limit)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    weight_bytes, kv_bytes_per_token, num_blocks = json.loads(result.stdout)
    assert (weight_bytes, kv_bytes_per_token) == (
        forecast.weight_bytes,
        forecast.kv_bytes_per_token,
    )
    assert num_blocks == pytest.approx(forecast.num_blocks, rel=0.05)
