"""Small random checkpoints of the three styles, and transformers' model on the same weights.

After every test of the folder, its engines must have freed all their blocks.
"""

import multiprocessing
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import distributed

from tests.worker.engine.oracle import Oracle, make_oracle
from worker.engine import Engine

# The assertions of these helpers report the compared values.
pytest.register_assert_rewrite("tests.worker.engine.comparison", "tests.worker.engine.workload")

STYLES = ("7b", "40b", "rw")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: models this small only lose time to more."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Oracle]:
    """One oracle of each style."""
    return {style: make_oracle(tmp_path_factory.mktemp(style), style) for style in STYLES}


@pytest.fixture(scope="session", params=STYLES)
def oracle(request: pytest.FixtureRequest, oracles: dict[str, Oracle]) -> Oracle:
    """Each style in turn."""
    style: str = request.param
    return oracles[style]


@pytest.fixture(autouse=True)
def no_engine_leaks_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Abort what a test left running; assert that no block is held afterwards."""
    engines: WeakSet[Engine] = WeakSet()
    make_engine = Engine.__init__

    def make_and_remember(engine: Engine, **parts: Any) -> None:
        make_engine(engine, **parts)
        engines.add(engine)

    monkeypatch.setattr(Engine, "__init__", make_and_remember)
    yield
    for engine in engines:
        for group in engine.scheduler.groups:
            engine.abort(group.request_id)
        assert engine.used_kv_tokens == 0
        engine.scheduler.block_manager.check_integrity([])


@pytest.fixture
def no_process_is_left() -> Iterator[None]:
    """End the processes and the process group of a tensor-parallel network after the test."""
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
    for process in multiprocessing.active_children():
        process.kill()  # a frozen process takes no other signal
        process.join()
