"""Interface of the peers' runners: flags, workload, and the summary that they write.

Runs in the peers' environments too, so it imports only the standard library, and our modules that
do the same.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.workloads import FIRST_WORD_ID, read_workload

WARM_UP_PROMPT = 8  # tokens: too few for a block of a prefix cache

Generate = Callable[["list[PeerRequest]"], list[list[int]]]


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """A greedy request that ends after `num_new` tokens and ignores eos."""

    prompt_ids: list[int]
    num_new: int


@dataclass(frozen=True, slots=True)
class Task:
    """What a runner must do."""

    model: str
    requests: list[PeerRequest]
    choices: list[PeerRequest]  # for one token each, computed after the measurement
    json_out: Path
    threads: int
    max_rows: int
    options: argparse.Namespace


def read_task(*extra_flags: str) -> Task:
    """Parse the command line; `extra_flags` are the peer's own flags, each with a value."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--choices", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-rows", type=int, default=32)
    for flag in extra_flags:
        parser.add_argument(flag)
    options = parser.parse_args()
    return Task(
        options.model,
        read_requests(options.requests),
        read_requests(options.choices) if options.choices else [],
        options.json,
        options.threads,
        options.max_rows,
        options,
    )


def read_requests(path: Path) -> list[PeerRequest]:
    return [
        PeerRequest(item.prompt_ids or [], item.generate_kwargs["max_new_tokens"])
        for item in read_workload(path)
    ]


def time_task(task: Task, generate: Generate, *, variant: str | None = None) -> None:
    """Time `generate`, which returns the new token ids of each request, and write the report.

    A short request runs first: some runtimes pack their weights in their first step. Tokens that no
    request asked for do not count. `variant` names the dtype and the executor.
    """
    generate([PeerRequest([FIRST_WORD_ID] * WARM_UP_PROMPT, 2)])
    started = time.perf_counter()
    outputs = generate(task.requests)
    wall_s = time.perf_counter() - started
    output_tokens = sum(map(len, outputs))
    report = {
        "summary": {
            "requests": len(outputs),
            "output_tokens": output_tokens,
            "wall_s": wall_s,
            "tokens_per_s": output_tokens / wall_s,
        },
        "requests": to_reports(task.requests, outputs),
        "choices": to_reports(task.choices, generate(task.choices) if task.choices else []),
        "variant": variant,
    }
    task.json_out.write_text(json.dumps(report) + "\n")


def to_reports(requests: list[PeerRequest], outputs: list[list[int]]) -> list[dict[str, Any]]:
    """Return the reports of the requests. Exits if an output is shorter or longer than asked."""
    for number, (request, token_ids) in enumerate(zip(requests, outputs, strict=True), 1):
        if len(token_ids) != request.num_new:
            raise SystemExit(
                f"request {number}: {len(token_ids)} tokens, {request.num_new} asked for"
            )
    return [{"sequences": [{"token_ids": token_ids}]} for token_ids in outputs]
