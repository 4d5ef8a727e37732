"""How an OpenVINO graph's time is shared among its operators, by the runtime's own counters."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from bench.engine.stopwatch import replaced


@dataclass(frozen=True, slots=True)
class OperatorShares:
    """Of the time of all operators together, in all inferences since the graph was compiled.

    Shares and not seconds, for the runtime tells means only, which include inferences before the
    measured ones.
    """

    dense_layers: float
    attention: float
    head: float


@contextmanager
def counters_switched_on() -> Iterator[None]:
    """Whatever is compiled in this context counts; without openvino there is nothing to do."""
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
    """From an `openvino.InferRequest`; the head is the last of the matrix products."""
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
