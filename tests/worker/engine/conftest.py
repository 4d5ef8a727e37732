"""Small random checkpoints of the three styles, and transformers' model on the same weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.engine.oracle import load_judge, silence
from worker.model.random_checkpoint import write_random_checkpoint

STYLES = ("7b", "40b", "rw")


@dataclass(frozen=True)
class Judge:
    """A checkpoint and the oracle that was loaded from it."""

    path: Path
    model: Any
    tokenizer: Any

    @property
    def vocab_size(self) -> int:
        size: int = self.model.config.vocab_size
        return size


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose time to threads, all the more where cores are shared."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session", params=STYLES)
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    silence()
    path = write_random_checkpoint(tmp_path_factory.mktemp(request.param), like=request.param)
    return Judge(path, *load_judge(path))
