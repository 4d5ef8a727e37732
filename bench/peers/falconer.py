"""Run Falconer's engine as a contender.

`--dtype`, `--kv-dtype` and `--quantization` are a worker's flags.
"""

import sys
from functools import partial

from bench.engine.engine_bench import EngineBench, settings_of, to_request
from bench.engine.replay import replay
from bench.peers.exchange import PeerRequest, read_task, time_task
from bench.workloads import GREEDY, WorkItem
from shared.errors import FalconerError
from shared.request.prompt import PromptEncoder
from worker.engine import Engine


def main() -> None:
    task = read_task("--dtype", "--kv-dtype", "--quantization")
    bench = EngineBench(
        task.model,
        device="cpu",
        max_rows=task.max_rows,
        threads=task.threads,
        dtype=task.options.dtype or "auto",
        kv_dtype=task.options.kv_dtype or "auto",
        quantization=task.options.quantization,
    )
    try:
        engine, encoder = bench.load()
    except FalconerError as error:
        sys.exit(error.message)
    time_task(task, partial(generate, engine, encoder), variant=settings_of(engine)["variant"])


def generate(
    engine: Engine, encoder: PromptEncoder, requests: list[PeerRequest]
) -> list[list[int]]:
    """Add all requests at once and return the new token ids of each."""
    items = [to_work_item(request) for request in requests]
    prepared = [to_request(encoder, str(number), item) for number, item in enumerate(items, 1)]
    reports = replay(engine, prepared, len(prepared)).requests
    return [report.sequences[0]["token_ids"] for report in reports]


def to_work_item(request: PeerRequest) -> WorkItem:
    length = {"max_new_tokens": request.num_new, "eos_token_id": None}
    return WorkItem(prompt_ids=request.prompt_ids, generate_kwargs={**GREEDY, **length})


if __name__ == "__main__":
    main()
