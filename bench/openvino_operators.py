"""What the operators of an OpenVINO graph take, by the runtime's own counters."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from bench.stopwatch import replaced


@dataclass(frozen=True, slots=True)
class OperatorSeconds:
    """Of one inference, the mean of all since the graph was compiled: so the runtime counts."""

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


def read_counters(request: Any) -> OperatorSeconds:
    """From an `openvino.InferRequest`; the head is the last of the matrix products."""
    operators = request.get_profiling_info()
    products = [_seconds(node) for node in operators if node.node_type == "FullyConnected"]
    attention = [node for node in operators if node.node_type == "PagedAttentionExtension"]
    return OperatorSeconds(sum(products[:-1]), sum(map(_seconds, attention)), products[-1])


def _seconds(node: Any) -> float:
    seconds: float = node.real_time.total_seconds()
    return seconds
