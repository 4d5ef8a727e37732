"""The figures of other load generators, from their own reports."""

from typing import Any

import pytest

from bench.report import Report, RequestReport
from bench.service.load_tools import (
    OURS,
    Figures,
    Run,
    Shape,
    cell,
    guidellm_figures,
    our_figures,
    table_of,
    vllm_figures,
)
from shared.errors import FalconerError

SHAPE = Shape(requests=2, clients=1, prompt_tokens=4, new_tokens=3)


def vllm_report(num_tokens: int) -> dict[str, Any]:
    return {
        "total_output_tokens": num_tokens,
        "output_throughput": 50.0,
        "mean_ttft_ms": 20.0,
        "mean_itl_ms": 10.0,
    }


def guidellm_report(num_tokens: int) -> dict[str, Any]:
    metrics = {
        "request_totals": {"successful": 2, "errored": 0},
        "text": {"words": {}},
        "output_token_count": {"successful": {"total_sum": num_tokens}},
        "output_tokens_per_second": {"successful": {"mean": 50.0}},
        "time_to_first_token_ms": {"successful": {"mean": 20.0}},
        "inter_token_latency_ms": {"successful": {"mean": 10.0}},
    }
    return {"benchmarks": [{"metrics": metrics}]}


def test_all_load_generators_report_the_same_figures() -> None:
    request = RequestReport([{"token_count": 3}], 0.02, 0.04, [0.01, 0.01])
    ours = our_figures(Report([request, request], wall_s=0.12))
    assert ours == Figures(50.0, 20.0, 10.0)
    assert vllm_figures(vllm_report(6), SHAPE) == ours
    assert guidellm_figures(guidellm_report(6), SHAPE) == ours


def test_times_are_compared_with_the_times_of_the_api() -> None:
    assert cell([50.0, 80.0, 60.0], [50.0, 40.0, 50.0]) == "60.0 (1.20)"
    run = Run(Figures(50.0, 20.0, 10.0), api_ttft_ms=10.0, api_inter_token_ms=10.0)
    table = table_of([{OURS: run, "vllm": run}])
    assert [*table.columns[1].cells] == ["50.0 (1.00)"] * 2
    assert [*table.columns[2].cells] == ["20.0 (2.00)"] * 2


@pytest.mark.parametrize(
    ("figures", "report"), [(vllm_figures, vllm_report), (guidellm_figures, guidellm_report)]
)
def test_a_run_without_all_its_tokens_is_no_measurement(figures: Any, report: Any) -> None:
    with pytest.raises(FalconerError, match="counted 5 tokens, not 6"):
        figures(report(5), SHAPE)
