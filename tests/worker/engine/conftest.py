"""Small random checkpoints of the three styles, and transformers' model on the same weights."""

from collections.abc import Iterator

import pytest
import torch

from tests.worker.engine.oracle import Judge, make_judge

STYLES = ("7b", "40b", "rw")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose time to threads, all the more where cores are shared."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judge]:
    """One of each style."""
    return {style: make_judge(tmp_path_factory.mktemp(style), style) for style in STYLES}


@pytest.fixture(scope="session", params=STYLES)
def judge(request: pytest.FixtureRequest, judges: dict[str, Judge]) -> Judge:
    """Each style in turn."""
    style: str = request.param
    return judges[style]
