"""A test run removes the variables of the service from its environment."""

import os
import subprocess
import sys
from pathlib import Path


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
