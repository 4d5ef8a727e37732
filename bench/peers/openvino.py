"""Run OpenVINO GenAI's continuous batching on a checkpoint exported by optimum-intel.

`--precision` is the type it computes in, `--kv-cache` that of its KV cache. The runtime's defaults
are bfloat16, where the CPU has it, and 8 bits.
"""

from collections import deque
from typing import Any

import numpy as np
import openvino
from openvino_genai import (
    ContinuousBatchingPipeline,
    GenerationConfig,
    GenerationStatus,
    SchedulerConfig,
)

from bench.peers.exchange import PeerRequest, Task, read_task, time_task


def main() -> None:
    task = read_task("--kv-cache", "--precision", "--step-tokens")
    pipeline = load_pipeline(task)
    time_task(task, lambda requests: generate(pipeline, requests, task.max_rows))


def load_pipeline(task: Task) -> ContinuousBatchingPipeline:
    scheduling = SchedulerConfig()
    scheduling.max_num_seqs = task.max_rows
    if task.options.step_tokens is not None:
        scheduling.max_num_batched_tokens = int(task.options.step_tokens)
    properties: dict[str, object] = {"INFERENCE_NUM_THREADS": task.threads}
    if task.options.precision is not None:
        properties["INFERENCE_PRECISION_HINT"] = task.options.precision
    if task.options.kv_cache is not None:
        properties["KV_CACHE_PRECISION"] = task.options.kv_cache
    return ContinuousBatchingPipeline(task.model, scheduling, "CPU", properties)


def generate(
    pipeline: ContinuousBatchingPipeline, requests: list[PeerRequest], max_rows: int
) -> list[list[int]]:
    """Run at most `max_rows` requests at a time.

    The runtime's `max_num_seqs` limits only the requests that a step starts: it ran up to 64 at a
    time.
    """
    waiting = deque(enumerate(requests))
    running: list[Any] = []  # the class of handles is not public
    handles: list[Any] = []
    while waiting or pipeline.has_non_finished_requests():
        running = [h for h in running if h.get_status() == GenerationStatus.RUNNING]
        while waiting and len(running) < max_rows:
            number, request = waiting.popleft()
            prompt = openvino.Tensor(np.array([request.prompt_ids], dtype=np.int64))
            running.append(pipeline.add_request(number, prompt, greedy(request.num_new)))
            handles.append(running[-1])
        pipeline.step()
    return [list(handle.read_all()[0].generated_ids) for handle in handles]


def greedy(num_new: int) -> GenerationConfig:
    config = GenerationConfig()
    config.max_new_tokens = num_new
    config.do_sample = False
    config.ignore_eos = True
    return config


if __name__ == "__main__":
    main()
