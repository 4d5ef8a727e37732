"""A test run removes the variables of the service, and keeps no apps of ended modules."""

import gc
import os
import subprocess
import sys
from pathlib import Path
from weakref import ref

from tests.conftest import forget_apps
from tests.fakes_api import fake_service


def test_a_run_keeps_only_the_variables_for_tests() -> None:
    code = "import os, tests.conftest; print([name for name in os.environ if 'FALCONER' in name])"
    environment = os.environ | {"FALCONER_PORT": "1", "FALCONER_TEST_REDIS_SERVER": "/bin/true"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.stdout == "['FALCONER_TEST_REDIS_SERVER']\n", result.stderr


async def test_the_apps_of_an_ended_module_are_freed() -> None:
    async with fake_service() as service:
        app = ref(service.app)
    del service
    forget_apps()
    gc.collect()
    assert app() is None
