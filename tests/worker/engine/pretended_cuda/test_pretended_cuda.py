"""The engine on a pretended GPU: the CPU's tokens, and a bound on what each step costs the host.

A copy from pageable memory and a read of a result make the host wait for the GPU. Both bounds and
the number of launches are therefore part of a step's speed.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.worker.engine.pretended_cuda.device import PROJECT, Copy, HostWork
from tests.worker.engine.pretended_cuda.guard import why_unavailable
from tests.worker.engine.pretended_cuda.record import LAYERS, RECORD, STATIC_DTYPE
from tests.worker.engine.pretended_cuda.traffic import FUSED, KINDS, PLAYED, STYLES

obstacle = why_unavailable()
pytestmark = pytest.mark.skipif(obstacle is not None, reason=obstacle or "")

LAUNCHES_PER_LAYER = {"7b": 7, "40b": 8, "11b": 7, "rw": 10}
MAX_LAUNCHES_OUTSIDE_LAYERS = 18
# Copies in and synchronizations of a step whose rows all decode.
MAX_HOST_WORK = {
    "greedy": (2, 1),
    "top_k": (7, 4),
    "top_k_top_p": (9, 4),
    "logprobs": (3, 1),
    "sampled_logprobs": (7, 4),
}
# The same of a step in fixed shapes. The host computes log-probabilities.
MAX_STATIC_WORK = {"greedy": (1, 1), "top_k": (1, 1), "top_k_top_p": (1, 1), "logprobs": (2, 2)}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with a pretended GPU has recorded."""
    folder = tmp_path_factory.mktemp("pretended_cuda")
    module = "tests.worker.engine.pretended_cuda.record"
    command = [sys.executable, "-m", module, str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return result


def to_work(fields: dict[str, Any]) -> HostWork:
    work = HostWork(**fields)
    work.copies_in = [Copy(**copy) for copy in fields["copies_in"]]
    return work


def test_the_pretended_gpu_refuses_what_a_gpu_cannot_do(record: dict[str, Any]) -> None:
    assert set(record["refusals"]) == {"mix devices", "read as numpy", "pin for another GPU"}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("layers", "dtype"), PLAYED)
def test_a_gpu_gives_the_tokens_of_the_cpu(
    record: dict[str, Any], style: str, layers: str, dtype: str
) -> None:
    tokens = record["tokens"][f"{style} {layers} {dtype}"]
    assert len(tokens["cpu"]) >= len(KINDS)
    assert tokens["cuda"] == tokens["cpu"]


@pytest.mark.parametrize("style", STYLES)
def test_steps_of_fixed_shapes_give_the_tokens_of_the_cpu(
    record: dict[str, Any], style: str
) -> None:
    tokens = record["tokens"][f"{style} {FUSED} {STATIC_DTYPE}"]
    assert tokens["static"] == tokens["cpu"]


@pytest.mark.parametrize("kind", MAX_HOST_WORK)
def test_a_decode_step_rarely_waits_for_the_gpu(record: dict[str, Any], kind: str) -> None:
    work = to_work(record["steps"][kind])
    most_copies, most_syncs = MAX_HOST_WORK[kind]
    assert len(work.copies_in) <= most_copies, work.table()
    assert len(work.syncs) <= most_syncs, work.table()
    assert all(copy.is_pinned for copy in work.copies_in), work.table()


@pytest.mark.parametrize("style", STYLES)
def test_a_layer_launches_few_kernels(record: dict[str, Any], style: str) -> None:
    networks = record["layers"][style]
    few, many = (len(networks[str(count)]["launches"]) for count in LAYERS)
    per_layer = (many - few) / (LAYERS[1] - LAYERS[0])
    table = to_work(networks[str(LAYERS[0])]).table()
    assert per_layer <= LAUNCHES_PER_LAYER[style], table
    assert few - LAYERS[0] * per_layer <= MAX_LAUNCHES_OUTSIDE_LAYERS, table


@pytest.mark.parametrize("kind", MAX_STATIC_WORK)
def test_a_step_of_fixed_shapes_copies_once_and_waits_once(
    record: dict[str, Any], kind: str
) -> None:
    work = to_work(record["static"][kind]["host"])
    most_copies, most_syncs = MAX_STATIC_WORK[kind]
    assert len(work.copies_in) <= most_copies, work.table()
    assert len(work.syncs) <= most_syncs, work.table()
    assert all(copy.is_pinned for copy in work.copies_in), work.table()


@pytest.mark.parametrize("kind", MAX_STATIC_WORK)
def test_what_a_graph_captures_needs_nothing_of_the_host(record: dict[str, Any], kind: str) -> None:
    work = to_work(record["static"][kind]["captured"])
    assert work.launches
    assert work.copies_in == [], work.table()
    assert work.syncs == [], work.table()


def test_without_a_capture_the_worker_warns_and_decodes_by_launches(record: dict[str, Any]) -> None:
    [warning] = record["failed_capture"]
    assert warning.startswith("decoding without CUDA graphs, slower: ")
