"""Commands of the contenders, and processes that succeed or fail."""

import sys
from pathlib import Path

import pytest

from bench.peers.contenders import (
    FALCONER,
    FALCONER_INT8,
    Conditions,
    falconer_contenders,
    run_contender,
    run_to_json,
    transformers_contenders,
)
from bench.peers.environments import OPENVINO, Environment
from bench.workloads import WorkItem, write_workload
from shared.errors import FalconerError


@pytest.fixture
def conditions(tmp_path: Path) -> Conditions:
    return Conditions(tmp_path / "model", 2, 32, 64, tmp_path / "peers")


def test_contenders_differ_only_in_what_is_compared(conditions: Conditions) -> None:
    contenders = {contender.name: contender for contender in falconer_contenders(conditions)}
    extra = contenders[FALCONER_INT8].command[len(contenders[FALCONER].command) :]
    assert extra == ("--quantization", "int8")
    for contender in (*contenders.values(), *transformers_contenders(conditions)):
        assert contender.command[contender.command.index("--threads") + 1] == "2"


def test_one_at_a_time_has_batches_of_one_and_a_small_sample(conditions: Conditions) -> None:
    batches, one = transformers_contenders(conditions)
    assert one.command[one.command.index("--max-rows") + 1] == "1"
    assert one.num_requests < batches.num_requests == 32


def test_our_engine_runs_in_a_process_with_outputs_in_order(tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    kwargs = {"do_sample": False, "eos_token_id": None}
    write_workload(
        requests,
        [
            WorkItem(prompt_ids=[20], generate_kwargs={**kwargs, "max_new_tokens": n})
            for n in (3, 2)
        ],
    )
    bundled = Conditions(Path("tiny"), 1, 32, 2, tmp_path)
    run = run_contender(
        falconer_contenders(bundled)[0], requests, tmp_path / "report.json", threads=1
    )
    assert [len(output) for output in run.outputs] == [3, 2]
    assert run.tokens_per_s > 0


def test_a_process_has_the_shared_threads_and_allocator(tmp_path: Path) -> None:
    json_out = tmp_path / "out.json"
    code = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    environment = run_to_json([sys.executable, "-c", code, str(json_out)], json_out, threads=3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == environment["MALLOC_TRIM_THRESHOLD_"]


def test_the_error_of_a_failed_process_is_the_end_of_its_output(tmp_path: Path) -> None:
    code = "import sys; sys.exit('no room for the KV cache')"
    with pytest.raises(FalconerError, match="no room for the KV cache"):
        run_to_json([sys.executable, "-c", code], tmp_path / "out.json", threads=1)


def test_an_existing_environment_is_not_created_again(tmp_path: Path) -> None:
    environment = Environment(tmp_path, OPENVINO)
    marker = tmp_path / "requirements.done"
    marker.write_text("\n".join(OPENVINO))
    environment.ensure()
    assert [path.name for path in tmp_path.iterdir()] == [marker.name]
