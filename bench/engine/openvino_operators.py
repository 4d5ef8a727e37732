"""Read how the time of an OpenVINO graph is divided among its operators, from its own counters."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from bench.engine.stopwatch import replaced


@dataclass(frozen=True, slots=True)
class OperatorShares:
    """The shares of operators in the time of all inferences since the graph was compiled.

    The runtime reports only means, which include earlier inferences.
    """

    dense_layers: float
    attention: float
    head: float


@contextmanager
def counters_enabled() -> Iterator[None]:
    """Enable counters in graphs compiled in this context; without openvino do nothing."""
    if find_spec("openvino") is None:
        yield
        return
    import openvino as ov

    compile_model = ov.Core.compile_model

    def compile_counting(core: Any, graph: Any, device: str, properties: dict[str, Any]) -> Any:
        return compile_model(core, graph, device, {**properties, "PERF_COUNT": True})

    with replaced(ov.Core, "compile_model", compile_counting):
        yield


def read_shares(request: Any) -> OperatorShares:
    """Read the shares from an `openvino.InferRequest`. The head is the last matrix product."""
    operators = request.get_profiling_info()
    seconds = [node.real_time.total_seconds() for node in operators]

    def seconds_of(node_type: str) -> list[float]:
        return [
            s for node, s in zip(operators, seconds, strict=True) if node.node_type == node_type
        ]

    *dense_layers, head = seconds_of("FullyConnected")
    attention = seconds_of("PagedAttentionExtension")
    total = sum(seconds)
    return OperatorShares(sum(dense_layers) / total, sum(attention) / total, head / total)
