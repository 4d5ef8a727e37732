"""Contenders of the comparison: how each is started, and its part of the workload.

Every run is a process of its own with the same threads and the same allocator settings.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.environments import OPENVINO, VLLM, Environment, export_to_openvino
from shared.errors import FalconerError

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 400
MAX_ERROR_CHARS = 300
KEPT_BYTES = str(2**30)  # the allocator keeps buffers up to this size, which avoids page faults

FALCONER = "falconer"
FALCONER_TORCH = "falconer, torch alone"
FALCONER_INT8 = "falconer, int8 weights"
GENERATE_BATCHES = "generate, static batches"
GENERATE_ONE = "generate, one at a time"
NUM_ONE_AT_A_TIME = 4


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is equal for all contenders."""

    model: Path
    threads: int
    max_rows: int
    num_requests: int
    peers: Path  # folder of the peers' environments

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--threads", str(self.threads), "--max-rows", str(self.max_rows))


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine, or a variant of ours, that runs the workload."""

    name: str
    command: tuple[str, ...]  # without `--requests FILE --json FILE`
    num_requests: int  # of the workload; slow contenders run a sample


@dataclass(frozen=True, slots=True)
class ContenderRun:
    tokens_per_s: float
    outputs: list[list[int]]  # new token ids, in the order of the requests


def falconer_contenders(conditions: Conditions) -> list[Contender]:
    command = (sys.executable, "-m", "falconer", "bench", "engine", "--device", "cpu")
    common = ("--model", str(conditions.model), *conditions.flags)
    variants = {
        FALCONER: (),
        FALCONER_TORCH: ("--executor", "torch"),
        FALCONER_INT8: ("--quantization", "int8"),
    }
    return [
        Contender(name, (*command, *common, *flags), conditions.num_requests)
        for name, flags in variants.items()
    ]


def transformers_contenders(conditions: Conditions) -> list[Contender]:
    command = (sys.executable, "-m", "bench.peers.transformers", "--model", str(conditions.model))
    batch_of_one = (*command, "--threads", str(conditions.threads), "--max-rows", "1")
    return [
        Contender(GENERATE_BATCHES, (*command, *conditions.flags), conditions.max_rows),
        Contender(GENERATE_ONE, batch_of_one, NUM_ONE_AT_A_TIME),
    ]


def openvino_contenders(conditions: Conditions) -> list[Contender]:
    """Return contenders with both precisions of the KV cache; create environment and export."""
    environment = Environment(conditions.peers / "openvino", OPENVINO)
    environment.ensure()
    exported = export_to_openvino(environment, conditions.model, conditions.peers)
    command = (str(environment.python), "-m", "bench.peers.openvino", "--model", str(exported))
    common = (*command, *conditions.flags)
    return [
        Contender(
            "OpenVINO GenAI, KV in f32", (*common, "--kv-cache", "f32"), conditions.num_requests
        ),
        Contender("OpenVINO GenAI, its own KV", common, conditions.num_requests),
    ]


def vllm_contenders(conditions: Conditions) -> list[Contender]:
    """Return the contender; create its environment if it is missing."""
    environment = Environment(conditions.peers / "vllm", VLLM)
    environment.ensure()
    command = (str(environment.python), "-m", "bench.peers.vllm", "--model", str(conditions.model))
    return [Contender("vLLM, CPU build", (*command, *conditions.flags), conditions.num_requests)]


def run_contender(
    contender: Contender, requests: Path, json_out: Path, threads: int
) -> ContenderRun:
    """Run one contender once. Raises FalconerError with the end of its output when it fails."""
    command = [*contender.command, "--requests", str(requests), "--json", str(json_out)]
    report = run_to_json(command, json_out, threads)
    outputs = [request["sequences"][0]["token_ids"] for request in report["requests"]]
    return ContenderRun(report["summary"]["tokens_per_s"], outputs)


def run_to_json(command: list[str], json_out: Path, threads: int) -> Any:
    """Run a command of this project in a process of its own and return the JSON that it wrote."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "MALLOC_MMAP_THRESHOLD_": KEPT_BYTES,
        "MALLOC_TRIM_THRESHOLD_": KEPT_BYTES,
        "HF_HUB_OFFLINE": "1",
    }
    try:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise FalconerError(f"took more than {TIMEOUT_S} s") from error
    if result.returncode:
        raise FalconerError(" ".join(result.stderr.split())[-MAX_ERROR_CHARS:])
    return json.loads(json_out.read_text())
