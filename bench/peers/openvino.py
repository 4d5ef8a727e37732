"""OpenVINO GenAI's continuous batching on a checkpoint exported with optimum-intel, in float32.

`--kv-cache` is the precision of its KV cache; by default the runtime quantises it to 8 bits.
"""

import numpy as np
import openvino
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig

from bench.peers.exchange import PeerRequest, Task, read_task, time_task


def main() -> None:
    task = read_task("--kv-cache", "--step-tokens")
    pipeline = load_pipeline(task)
    time_task(task, lambda requests: generate(pipeline, requests))


def load_pipeline(task: Task) -> ContinuousBatchingPipeline:
    scheduling = SchedulerConfig()
    scheduling.max_num_seqs = task.max_rows
    if task.options.step_tokens is not None:
        scheduling.max_num_batched_tokens = int(task.options.step_tokens)
    properties: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": task.threads,
    }
    if task.options.kv_cache is not None:
        properties["KV_CACHE_PRECISION"] = task.options.kv_cache
    return ContinuousBatchingPipeline(task.model, scheduling, "CPU", properties)


def generate(pipeline: ContinuousBatchingPipeline, requests: list[PeerRequest]) -> list[list[int]]:
    prompts = [openvino.Tensor(np.array([r.prompt_ids], dtype=np.int64)) for r in requests]
    results = pipeline.generate(prompts, [greedy(request.num_new) for request in requests])
    return [list(result.m_generation_ids[0]) for result in results]


def greedy(num_new: int) -> GenerationConfig:
    config = GenerationConfig()
    config.max_new_tokens = num_new
    config.do_sample = False
    config.ignore_eos = True
    return config


if __name__ == "__main__":
    main()
