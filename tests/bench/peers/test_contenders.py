"""Commands of the contenders, and a run of our own."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.peers.contenders import (
    Conditions,
    Contender,
    Mode,
    Side,
    falconer_contenders,
    gather_contenders,
    run_contender,
)
from bench.peers.environments import OPENVINO, VLLM, Environment
from bench.workloads import WorkItem, write_workload

MODES = list(Mode)


@pytest.fixture
def conditions(tmp_path: Path) -> Conditions:
    for name, requirements in (("openvino", OPENVINO), ("vllm", VLLM)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "requirements.done").write_text("\n".join(requirements))
    return Conditions(tmp_path / "model", 2, 32, 64, tmp_path)


def flag(contender: Contender, name: str) -> str:
    return contender.command[contender.command.index(name) + 1]


@pytest.mark.parametrize("side", [Side.FALCONER, Side.VLLM, Side.GENERATE])
def test_the_contenders_of_a_side_have_the_same_threads_and_rows(
    side: Side, conditions: Conditions
) -> None:
    contenders = gather_contenders(side, MODES, conditions)
    assert len({contender.name for contender in contenders}) == len(contenders) > 0
    for contender in contenders:
        assert (flag(contender, "--threads"), flag(contender, "--max-rows")) == ("2", "32")


def test_modes_of_falconer_differ_in_the_flags_of_a_worker(conditions: Conditions) -> None:
    by_mode = {c.mode: c.command for c in falconer_contenders(MODES, conditions)}
    common = len(by_mode[Mode.DEFAULT])
    assert by_mode[Mode.FLOAT32][common:] == ("--dtype", "float32")
    assert by_mode[Mode.INT8_KV][common:] == ("--kv-dtype", "int8")
    assert by_mode[Mode.BEST][common:] == ("--quantization", "int8")


def test_a_side_runs_only_the_selected_modes(conditions: Conditions) -> None:
    assert [c.mode for c in gather_contenders(Side.VLLM, [Mode.DEFAULT], conditions)] == ["default"]
    assert gather_contenders(Side.GENERATE, [Mode.BEST], conditions) == []


def test_few_rows_run_a_sample(conditions: Conditions) -> None:
    sizes = {
        rows: falconer_contenders([Mode.FLOAT32], replace(conditions, max_rows=rows))[0]
        for rows in (1, 8, 64)
    }
    assert {rows: sizes[rows].num_requests for rows in sizes} == {1: 4, 8: 32, 64: 64}


def test_our_engine_runs_in_a_process_with_outputs_in_order(tmp_path: Path) -> None:
    requests, choices = tmp_path / "requests.jsonl", tmp_path / "choices.jsonl"
    for path, lengths in ((requests, (3, 2)), (choices, (1,))):
        items = [
            WorkItem(prompt_ids=[20], generate_kwargs={"max_new_tokens": length})
            for length in lengths
        ]
        write_workload(path, items)
    bundled = Conditions(Path("tiny"), 1, 32, 2, tmp_path)
    [contender] = falconer_contenders([Mode.FLOAT32], bundled)
    run = run_contender(contender, requests, choices, tmp_path / "report.json", threads=1)
    assert [len(output) for output in run.outputs] == [3, 2]
    assert run.choices == [run.outputs[0][:1]]
    assert run.tokens_per_s > 0
    assert run.variant is not None and "float32" in run.variant


def test_an_existing_environment_is_not_created_again(tmp_path: Path) -> None:
    environment = Environment(tmp_path, OPENVINO)
    marker = tmp_path / "requirements.done"
    marker.write_text("\n".join(OPENVINO))
    environment.ensure()
    assert [path.name for path in tmp_path.iterdir()] == [marker.name]
