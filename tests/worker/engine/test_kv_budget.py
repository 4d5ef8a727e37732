"""The size of the KV cache when nobody says one."""

import pytest
import torch

from tests.fakes import fake_engine
from worker.engine import cgroup, kv_budget
from worker.engine.config import EngineConfig
from worker.engine.kv_budget import choose_num_blocks

CPU = torch.device("cpu")
MODEL = fake_engine(context_length=100).model_config  # one layer, one KV head of 4: 32 bytes/token


def choose(config: EngineConfig) -> int:
    return choose_num_blocks(config, MODEL, torch.float32, CPU)


def test_a_given_number_of_blocks_is_taken_as_it_is() -> None:
    assert choose(EngineConfig(num_blocks=3)) == 3


def test_every_row_gets_room_for_its_full_length() -> None:
    assert choose(EngineConfig(max_rows=5, block_size=16)) == 5 * 7


def test_no_more_than_half_of_the_free_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_budget, "free_memory", lambda device: 2 * 10 * 16 * 32 + 1)
    assert choose(EngineConfig(block_size=16)) == 10


def test_no_room_for_one_block_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_budget, "free_memory", lambda device: 100)
    with pytest.raises(ValueError, match="no memory left for a KV cache on cpu"):
        choose(EngineConfig())


def test_a_containers_limit_counts_as_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "memory_left", lambda: 2 * 10 * 16 * 32 + 1)
    assert choose(EngineConfig(block_size=16)) == 10
