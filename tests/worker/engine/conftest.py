"""Small random checkpoints of the three styles, and transformers' model on the same weights.

After every test of the folder, engines that it made must have given all their blocks back.
"""

import multiprocessing
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import distributed

from tests.worker.engine.oracle import Judge, make_judge
from worker.engine import Engine

# Helpers whose assertions shall tell what they compared, as those of tests do.
pytest.register_assert_rewrite("tests.worker.engine.verdict", "tests.worker.engine.company")

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


@pytest.fixture(autouse=True)
def no_engine_leaks_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test left undone is aborted; then nobody may hold a block."""
    engines: WeakSet[Engine] = WeakSet()
    make_engine = Engine.__init__

    def make_and_remember(engine: Engine, **parts: Any) -> None:
        make_engine(engine, **parts)
        engines.add(engine)

    monkeypatch.setattr(Engine, "__init__", make_and_remember)
    yield
    for engine in engines:
        for request_id in list(engine._streams):
            engine.abort(request_id)
        assert engine.used_kv_tokens == 0
        engine._block_manager.check_integrity([])


@pytest.fixture
def no_follower_is_left() -> Iterator[None]:
    """For tests of a network in parts: the next one finds no process and no group of theirs."""
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
    for follower in multiprocessing.active_children():
        follower.kill()  # a frozen one hears nothing else
        follower.join()
