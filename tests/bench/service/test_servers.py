"""Servers as processes: started, ready and stopped, or reported with their error."""

import os
import sys
from pathlib import Path

import pytest

from bench.service.load import Load, run_load
from bench.service.servers import Conditions, falconer_server, running
from bench.workloads import WorkItem
from shared.errors import FalconerError

pytestmark = pytest.mark.integration


def test_falconer_answers_over_http_until_it_is_stopped(tmp_path: Path) -> None:
    kwargs = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": None}
    items = [WorkItem(prompt="Once upon a time", generate_kwargs=kwargs)] * 2
    with falconer_server(Conditions(Path("tiny"), 1, 8, tmp_path)) as server:
        run_load(server, items, Load("two", 2, clients=2))
    with pytest.raises(FalconerError, match="ConnectError"):
        run_load(server, items, Load("two", 2, clients=2))


def test_the_error_of_a_server_that_exits_is_the_end_of_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    url = "http://127.0.0.1:9/health"
    with pytest.raises(FalconerError, match="the server exited: no such model"):
        with running(command, dict(os.environ), url, tmp_path / "output"):
            raise AssertionError("it is not ready")
