"""The sizing table of the handbook is computed from the published shapes."""

import re

import pytest
import torch

from tests.deploy.manifests import ROOT
from worker.engine import EngineConfig
from worker.engine.memory_plan import forecast_gpu
from worker.model.config import ModelConfig
from worker.model.random_checkpoint import config_fields

GIB = 2**30
LENGTHS = (512, 1024, 2048)
ROW = re.compile(r"^\| (\d+) GiB \|[^|]*\|(.+)\|$", flags=re.MULTILINE)


def rows_that_fit(like: str, memory_gib: int, num_tokens: int) -> int:
    try:
        plan = forecast_gpu(
            ModelConfig.from_dict(config_fields(like, full_size=True)),
            EngineConfig(max_rows=10**6, max_step_tokens=10**6),
            dtype=torch.bfloat16,
            memory_bytes=memory_gib * GIB,
        )
    except ValueError:  # not even the weights
        return 0
    return plan.rows_of(num_tokens)


def table() -> list[tuple[int, list[int]]]:
    handbook = (ROOT / "docs" / "operations.md").read_text()
    return [
        (int(memory), [int(cell.replace(",", "")) for cell in cells.split("|")])
        for memory, cells in ROW.findall(handbook)
    ]


@pytest.mark.parametrize(("memory_gib", "told"), table())
def test_as_many_rows_fit_as_the_handbook_says(memory_gib: int, told: list[int]) -> None:
    fits = [rows_that_fit(like, memory_gib, length) for like in ("7b", "40b") for length in LENGTHS]
    assert told == fits


def test_there_is_a_table() -> None:
    assert len(table()) >= 5
