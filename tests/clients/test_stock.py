"""Stock clients call one service: each call of `tests/clients/stock` is a test."""

import subprocess

import pytest

from tests.clients.stock import CALLS, missing_program
from tests.clients.stock.calls import Call, Target
from tests.running_service import ROOT

pytestmark = pytest.mark.integration

FEWEST_CALLS = 80
PYTHON = ROOT / ".falconer" / "stock-clients" / "bin" / "python"  # `make clients-test` makes it
IN_THEIR_OWN_ENVIRONMENT = ("langchain-openai", "llm")
HERE = [call for call in CALLS if call.client not in IN_THEIR_OWN_ENVIRONMENT]


@pytest.fixture(scope="module")
def target(url: str, tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(url, tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize("call", HERE, ids=str)
def test_a_call_works(call: Call, target: Target) -> None:
    if reason := missing_program(call.client):
        pytest.skip(reason)
    call.run(target)


@pytest.mark.skipif(not PYTHON.exists(), reason="make clients-test installs langchain-openai, llm")
@pytest.mark.parametrize("client", IN_THEIR_OWN_ENVIRONMENT)
def test_every_call_of_a_client_in_its_own_environment_works(client: str, url: str) -> None:
    command = [PYTHON, "-m", "tests.clients.stock", url, client]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_suite_makes_at_least_eighty_calls() -> None:
    assert len(HERE) >= FEWEST_CALLS
    assert len({str(call) for call in CALLS}) == len(CALLS)
