"""The size of the KV cache when nobody says one."""

import pytest
import torch

from tests.fakes import fake_engine
from worker import host_memory
from worker.engine.config import EngineConfig
from worker.engine.memory.kv_cache_size import choose_num_blocks, free_memory

CPU = torch.device("cpu")
MODEL = fake_engine(context_length=100).model_config  # one layer, one KV head of 4: 32 bytes/token


BYTES_PER_BLOCK = 16 * 32


def choose(config: EngineConfig, free_bytes: int = 2**30, step_bytes: int = 0) -> int:
    return choose_num_blocks(
        config, MODEL, torch.float32, CPU, free_bytes=free_bytes, step_bytes=step_bytes
    )


def test_a_given_number_of_blocks_is_taken_as_it_is() -> None:
    assert choose(EngineConfig(num_blocks=3)) == 3


def test_every_row_gets_room_for_its_full_length() -> None:
    assert choose(EngineConfig(max_rows=5, block_size=16)) == 5 * 7


def test_no_more_than_half_of_the_free_memory_is_taken() -> None:
    assert choose(EngineConfig(block_size=16), 2 * 10 * BYTES_PER_BLOCK + 1) == 10


def test_what_a_step_needs_is_left() -> None:
    free_bytes, step_bytes = 20 * BYTES_PER_BLOCK, 14 * BYTES_PER_BLOCK
    assert choose(EngineConfig(block_size=16), free_bytes, step_bytes) == 6


def test_no_room_for_one_block_is_a_clear_error() -> None:
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
