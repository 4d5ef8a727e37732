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

from bench.workloads import read_workload


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
    json_out: Path
    threads: int
    max_rows: int
    options: argparse.Namespace


def read_task(*extra_flags: str) -> Task:
    """Parse the command line; `extra_flags` are the peer's own flags, each with a value."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-rows", type=int, default=32)
    for flag in extra_flags:
        parser.add_argument(flag)
    options = parser.parse_args()
    items = read_workload(options.requests)
    requests = [
        PeerRequest(item.prompt_ids or [], item.generate_kwargs["max_new_tokens"]) for item in items
    ]
    return Task(options.model, requests, options.json, options.threads, options.max_rows, options)


def time_task(task: Task, generate: Callable[[list[PeerRequest]], list[list[int]]]) -> None:
    """Time `generate`, which returns the new token ids of each request, and write the report.

    Tokens that no request asked for do not count.
    """
    started = time.perf_counter()
    outputs = generate(task.requests)
    wall_s = time.perf_counter() - started
    for number, (request, token_ids) in enumerate(zip(task.requests, outputs, strict=True), 1):
        if len(token_ids) != request.num_new:
            raise SystemExit(
                f"request {number}: {len(token_ids)} tokens, {request.num_new} asked for"
            )
    output_tokens = sum(map(len, outputs))
    summary = {
        "requests": len(outputs),
        "output_tokens": output_tokens,
        "wall_s": wall_s,
        "tokens_per_s": output_tokens / wall_s,
    }
    reports = [{"sequences": [{"token_ids": token_ids}]} for token_ids in outputs]
    task.json_out.write_text(json.dumps({"summary": summary, "requests": reports}) + "\n")
