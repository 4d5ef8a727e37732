import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as transformers_logging

from tests.worker.model.oracle import load_oracle
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import load_model
from worker.model.falcon import FalconForCausalLM

STYLES = ("7b", "40b", "11b", "rw")


@pytest.fixture(scope="module", autouse=True)
def quiet_and_modest() -> Iterator[None]:
    """No progress bars; one thread, since matrices this small lose by sharing the work."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    progress_bars: Any = transformers_logging  # its functions have no types
    progress_bars.disable_progress_bar()
    yield
    progress_bars.enable_progress_bar()
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a small random checkpoint by style; made once, never written to."""
    root = tmp_path_factory.mktemp("checkpoints")

    def get(like: str) -> Path:
        path = root / like
        return path if path.exists() else write_random_checkpoint(path, like=like)

    return get


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of the 7b style that the test may change."""
    return shutil.copytree(checkpoint("7b"), tmp_path / "model")


@pytest.fixture(scope="session", params=STYLES)
def pair(
    request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]
) -> tuple[FalconForCausalLM, Any]:
    """Our network and the oracle on the same weights, float32, for every style."""
    path = checkpoint(request.param)
    return load_model(str(path), device=torch.device("cpu")), load_oracle(path)


@pytest.fixture
def compiler_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let Triton compile into an empty folder, without a warning of Triton 3.9."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    return tmp_path / "triton"
