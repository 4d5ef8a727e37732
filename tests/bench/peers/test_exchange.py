"""The interface of a peer's runner."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.peers.exchange import PeerRequest, Task, read_task, time_task
from bench.workloads import GREEDY, WorkItem, drawn_lengths, write_workload


@pytest.fixture
def items() -> list[WorkItem]:
    return drawn_lengths(GREEDY, vocab_size=100, num_requests=3)


@pytest.fixture
def task(items: list[WorkItem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    requests = tmp_path / "requests.jsonl"
    write_workload(requests, items)
    command = f"peer --model m --requests {requests} --json {tmp_path / 'o.json'} --threads 2"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--kv-cache", "f32"])
    return read_task("--kv-cache")


def test_a_task_holds_the_workload_and_the_peers_own_flags(
    task: Task, items: list[WorkItem]
) -> None:
    assert [request.prompt_ids for request in task.requests] == [i.prompt_ids for i in items]
    assert task.requests[0].num_new == items[0].generate_kwargs["max_new_tokens"]
    assert (task.threads, task.max_rows, task.options.kv_cache) == (2, 32, "f32")


def numbered(requests: list[PeerRequest]) -> list[list[int]]:
    return [[5] * request.num_new for request in requests]


def test_the_report_counts_the_tokens_of_the_requests_only(task: Task) -> None:
    time_task(task, numbered, variant="dtype float32")
    report = json.loads(task.json_out.read_text())
    wanted = sum(request.num_new for request in task.requests)
    assert report["summary"]["output_tokens"] == wanted
    assert report["summary"]["tokens_per_s"] == wanted / report["summary"]["wall_s"]
    assert report["requests"][0]["sequences"][0]["token_ids"] == [5] * task.requests[0].num_new
    assert (report["choices"], report["variant"]) == ([], "dtype float32")


def test_choices_run_after_the_measurement(task: Task) -> None:
    calls: list[list[PeerRequest]] = []

    def generate(requests: list[PeerRequest]) -> list[list[int]]:
        calls.append(requests)
        return numbered(requests)

    one_token = [PeerRequest([1, 2], 1)]
    time_task(replace(task, choices=one_token), generate)
    assert calls[1:] == [task.requests, one_token]  # the first call is the warm-up
    report = json.loads(task.json_out.read_text())
    assert report["choices"] == [{"sequences": [{"token_ids": [5]}]}]


def test_a_peer_that_ends_early_is_an_error(task: Task) -> None:
    def one_short(requests: list[PeerRequest]) -> list[list[int]]:
        return [[5] * (request.num_new - 1) for request in requests]

    with pytest.raises(SystemExit, match=r"request 1: .* asked for"):
        time_task(task, one_short)
    assert not task.json_out.exists()
