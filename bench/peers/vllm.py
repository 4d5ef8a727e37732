"""Run vLLM's CPU build in `--dtype`, with all requests in one call of its offline engine."""

import os
from typing import Any

from bench.peers.exchange import PeerRequest, Task, read_task, time_task

CONTEXT_LENGTH = 2048
KV_CACHE_GIB = "4"


def main() -> None:
    task = read_task("--dtype")
    # vLLM reads these when it is imported. Its engine runs in this process, with all its threads.
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": KV_CACHE_GIB,
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{task.threads - 1}",
        "VLLM_NO_USAGE_STATS": "1",
    }
    engine = load_engine(task)
    time_task(task, lambda requests: generate(engine, requests))


def load_engine(task: Task) -> Any:
    from vllm import LLM

    return LLM(
        model=task.model,
        dtype=task.options.dtype,
        max_num_seqs=task.max_rows,
        max_model_len=CONTEXT_LENGTH,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )


def generate(engine: Any, requests: list[PeerRequest]) -> list[list[int]]:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
    params = [
        SamplingParams(temperature=0.0, max_tokens=request.num_new, ignore_eos=True)
        for request in requests
    ]
    results = engine.generate(prompts, params, use_tqdm=False)
    return [list(result.outputs[0].token_ids) for result in results]


if __name__ == "__main__":
    main()
