"""Contenders of the comparison: how each is started, and its part of the workload.

A contender is one engine in one mode. Every run is a process of its own with the same threads and
the same allocator settings.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.peers.environments import OPENVINO, VLLM, Environment, export_to_openvino
from bench.process import run_to_json

# A slow contender runs a sample of the workload.
SMALLEST_SAMPLE = 4
REQUESTS_PER_ROW = 4


class Side(StrEnum):
    """The engines."""

    FALCONER = "falconer"
    GENAI = "genai"
    VLLM = "vllm"
    GENERATE = "generate"  # transformers, in static batches


class Mode(StrEnum):
    """How an engine computes."""

    FLOAT32 = "float32"  # weights, activations and KV cache
    DEFAULT = "default"  # what the engine chooses for the checkpoint
    INT8_KV = "int8-kv"  # the default, with a KV cache in 8 bits where that is an option
    BEST = "best"  # 8-bit weights


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

    @property
    def sample_size(self) -> int:
        """Return the number of requests that take about as long as all take with many rows."""
        wanted = max(SMALLEST_SAMPLE, REQUESTS_PER_ROW * self.max_rows)
        return min(self.num_requests, wanted)


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine in one mode, which runs the workload."""

    side: Side
    mode: Mode
    settings: str  # in words, for an engine that does not report its variant
    command: tuple[str, ...]  # without the files of requests and report
    num_requests: int

    @property
    def name(self) -> str:
        return f"{self.side}, {self.mode}"


@dataclass(frozen=True, slots=True)
class ContenderRun:
    tokens_per_s: float
    outputs: list[list[int]]  # new token ids, in the order of the requests
    choices: list[list[int]]  # new token ids of the requests for one token each
    variant: str | None  # dtype and executor, where the engine reports them


def gather_contenders(side: Side, modes: list[Mode], conditions: Conditions) -> list[Contender]:
    """Return the contenders of a side in the modes that it has.

    Creates the environment and the export that they need. Raises FalconerError.
    """
    makers: dict[Side, Callable[[list[Mode], Conditions], list[Contender]]] = {
        Side.FALCONER: falconer_contenders,
        Side.GENAI: openvino_contenders,
        Side.VLLM: vllm_contenders,
        Side.GENERATE: transformers_contenders,
    }
    return makers[side](modes, conditions)


def falconer_contenders(modes: list[Mode], conditions: Conditions) -> list[Contender]:
    command = (sys.executable, "-m", "bench.peers.falconer", "--model", str(conditions.model))
    flags: dict[Mode, tuple[str, ...]] = {
        Mode.FLOAT32: ("--dtype", "float32"),
        Mode.DEFAULT: (),
        Mode.INT8_KV: ("--kv-dtype", "int8"),
        Mode.BEST: ("--quantization", "int8"),
    }
    return [
        Contender(
            Side.FALCONER,
            mode,
            mode,
            (*command, *conditions.flags, *flags[mode]),
            conditions.sample_size,
        )
        for mode in modes
    ]


def openvino_contenders(modes: list[Mode], conditions: Conditions) -> list[Contender]:
    """Return contenders of OpenVINO GenAI; each mode has its own export of the checkpoint."""
    environment = Environment(conditions.peers / "openvino", OPENVINO)
    environment.ensure()
    exact = ("--kv-cache", "f32", "--precision", "f32")
    variants: dict[Mode, tuple[str, str | None, tuple[str, ...]]] = {
        Mode.FLOAT32: ("float32, KV cache in float32", "fp32", exact),
        Mode.DEFAULT: ("its defaults: bfloat16 on such CPUs, KV cache in 8 bits", None, ()),
        Mode.BEST: ("int8 weights, else its defaults", "int8", ()),
    }
    contenders = []
    for mode in (mode for mode in modes if mode in variants):
        settings, weights, flags = variants[mode]
        exported = export_to_openvino(environment, conditions.model, conditions.peers, weights)
        command = (str(environment.python), "-m", "bench.peers.openvino", "--model", str(exported))
        contenders.append(
            Contender(
                Side.GENAI,
                mode,
                settings,
                (*command, *conditions.flags, *flags),
                conditions.sample_size,
            )
        )
    return contenders


def vllm_contenders(modes: list[Mode], conditions: Conditions) -> list[Contender]:
    """Return contenders of vLLM's CPU build, which has no 8-bit weights for this checkpoint."""
    environment = Environment(conditions.peers / "vllm", VLLM)
    environment.ensure()
    command = (str(environment.python), "-m", "bench.peers.vllm", "--model", str(conditions.model))
    dtypes = {Mode.FLOAT32: "float32", Mode.DEFAULT: "bfloat16"}
    return [
        Contender(
            Side.VLLM,
            mode,
            dtypes[mode],
            (*command, *conditions.flags, "--dtype", dtypes[mode]),
            conditions.sample_size,
        )
        for mode in modes
        if mode in dtypes
    ]


def transformers_contenders(modes: list[Mode], conditions: Conditions) -> list[Contender]:
    """Return `generate` on one batch, or on some requests one at a time."""
    if Mode.FLOAT32 not in modes:
        return []
    command = (sys.executable, "-m", "bench.peers.transformers", "--model", str(conditions.model))
    one_batch = max(SMALLEST_SAMPLE, conditions.max_rows)
    return [
        Contender(
            Side.GENERATE,
            Mode.FLOAT32,
            "float32, static batches",
            (*command, *conditions.flags),
            min(conditions.num_requests, one_batch),
        )
    ]


def run_contender(
    contender: Contender, requests: Path, choices: Path | None, json_out: Path, threads: int
) -> ContenderRun:
    """Run one contender once. Raises FalconerError with the end of its output when it fails."""
    command = [*contender.command, "--requests", str(requests), "--json", str(json_out)]
    if choices is not None:
        command += ["--choices", str(choices)]
    report = run_to_json(command, json_out, threads)
    return ContenderRun(
        report["summary"]["tokens_per_s"],
        token_ids_of(report["requests"]),
        token_ids_of(report["choices"]),
        report["variant"],
    )


def token_ids_of(requests: list[dict[str, Any]]) -> list[list[int]]:
    return [request["sequences"][0]["token_ids"] for request in requests]
