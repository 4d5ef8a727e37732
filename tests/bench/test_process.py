"""Processes of measurements: shared settings, results and errors."""

import sys
from pathlib import Path

import pytest

from bench.process import run_to_json
from shared.errors import FalconerError


def test_a_process_has_the_shared_threads_and_allocator(tmp_path: Path) -> None:
    json_out = tmp_path / "out.json"
    code = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    command = [sys.executable, "-c", code, str(json_out)]
    environment = run_to_json(command, json_out, 3, {"FALCONER_MAX_ROWS": "16"})
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == environment["MALLOC_TRIM_THRESHOLD_"]
    assert environment["FALCONER_MAX_ROWS"] == "16"


def test_the_error_of_a_failed_process_is_the_end_of_its_output(tmp_path: Path) -> None:
    code = "import sys; sys.exit('no room for the KV cache')"
    with pytest.raises(FalconerError, match="no room for the KV cache"):
        run_to_json([sys.executable, "-c", code], tmp_path / "out.json", threads=1)
