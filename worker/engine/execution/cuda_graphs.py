"""Capture the decoding steps of a runner in CUDA graphs while the worker loads.

A graph that cannot be captured costs speed and no request: the worker says so and runs without.
"""

import logging
import time
from enum import StrEnum
from typing import Any

import torch

from worker.engine.config import EngineConfig
from worker.engine.execution.static_decoding import Call, StaticDecoder
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.device_map import current_device
from worker.model.kv_cache import AttentionKernels
from worker.model.layers.decode_attention import HeadShape, decode_kernel

logger = logging.getLogger(__name__)

_MOST_BYTES = 2**30  # of all graphs
_SHARE_OF_FREE_MEMORY = 0.5  # the rest is for prompts


class CudaGraphs(StrEnum):
    """Whether decoding steps are captured."""

    AUTO = "auto"  # on a GPU with Triton's attention
    OFF = "off"


class GraphCapture:
    """Capture calls in graphs that share one pool of memory, on a stream of its own."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        new_stream: Any = torch.cuda.Stream  # without types
        self._stream: torch.cuda.Stream = new_stream()

    def __call__(self, call: Call) -> Call:
        """Return what replays the kernels of `call`, in microseconds, on the same tensors.

        The call runs once before: libraries load kernels and allocate at their first use, which no
        capture may contain.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            call()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the GPU meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            call()
        return graph.replay


def capture_decoding(
    runner: ModelRunner, config: EngineConfig, wanted: CudaGraphs
) -> StaticDecoder | None:
    """Capture a bucket of each size, the largest first, within a budget of memory.

    None, with a line in the log, where every step runs without a graph.
    """
    device = runner.kv_caches[0].keys.device
    if device.type != "cuda":
        return None
    if obstacle := _obstacle(runner, wanted):
        logger.info("decoding without CUDA graphs: %s", obstacle)
        return None
    with current_device(device):
        try:
            return _capture(runner, config)
        except Exception as failure:  # of a kernel, a library, a driver
            reason = " ".join(f"{type(failure).__name__}: {failure}".split())
            logger.warning("decoding without CUDA graphs, slower: %s", reason)
        torch.cuda.empty_cache()  # the frames of the failure no longer hold its memory
        return None


def _obstacle(runner: ModelRunner, wanted: CudaGraphs) -> str | None:
    if wanted is CudaGraphs.OFF:
        return "cuda_graphs is off"
    if not runner.num_padding_blocks:
        return "the network is on several devices"
    shape = HeadShape.of(
        runner.kv_caches[0],
        runner.model.config.num_heads_per_kv_head,
        alibi=runner.model.config.alibi,
    )
    if runner.attention is not AttentionKernels.AUTO or decode_kernel(shape) is None:
        return "they need the Triton kernel of attention"
    return None


def _capture(runner: ModelRunner, config: EngineConfig) -> StaticDecoder | None:
    started, free = time.monotonic(), torch.cuda.mem_get_info()[0]
    budget = min(_MOST_BYTES, int(free * _SHARE_OF_FREE_MEMORY))
    decoder = StaticDecoder(runner, config.max_rows)
    sizes: list[int] = []
    for num_rows in decoder.add_buckets(GraphCapture()):
        sizes.append(num_rows)
        taken = free - torch.cuda.mem_get_info()[0]
        if taken > budget:
            break
    logger.info(
        "decoding in CUDA graphs of %s rows: %.1f s, %.0f MB",
        ", ".join(map(str, reversed(sizes))),
        time.monotonic() - started,
        taken / 1e6,
    )
    return decoder
