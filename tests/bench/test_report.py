"""Figures of a report, compared with figures computed by hand."""

import json
from pathlib import Path

import pytest

from bench.report import Report, RequestReport, check_output, finish_bench, percentiles
from shared.errors import FalconerError


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(i) for i in range(1, 101)]
    assert percentiles(values[::-1]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([7.0]) == {"p50": 7.0, "p95": 7.0, "p99": 7.0}
    assert percentiles([]) is None


@pytest.fixture
def report() -> Report:
    sequences = [{"token_ids": [1, 2, 3], "token_count": 3, "finish_reason": "length", "text": "x"}]
    done = RequestReport(sequences, ttft_s=0.5, latency_s=2.0, inter_token_s=[0.5, 1.0])
    return Report([done, RequestReport(error="503: Redis is away")], 2.0, {"steps": 3})


def test_the_summary_counts_tokens_failures_and_times(report: Report) -> None:
    summary = report.summary()
    assert summary["requests"] == 2
    assert summary["failed"] == 1
    assert summary["tokens_per_s"] == 1.5
    assert summary["ttft_s"]["p50"] == 0.5
    assert summary["inter_token_s"]["p99"] == 1.0
    assert summary["steps"] == 3


def test_failures_are_shown_and_only_total_failure_is_an_exit_code(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish_bench(report, None) == 0
    assert "1 times: 503: Redis is away" in capsys.readouterr().out
    failed = RequestReport(error="no such host")
    assert finish_bench(Report([failed, failed], 1.0), None) == 1
    assert "2 times: no such host" in capsys.readouterr().out


def test_a_report_without_a_folder_is_refused_before_measuring(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="there is no folder"):
        check_output(tmp_path / "absent" / "out.json")
    check_output(tmp_path / "out.json")
    check_output(None)


def test_the_file_holds_every_request_in_order(report: Report, tmp_path: Path) -> None:
    finish_bench(report, tmp_path / "out.json")
    body = json.loads((tmp_path / "out.json").read_text())
    first, second = body["requests"]
    assert first["sequences"][0]["token_ids"] == [1, 2, 3]
    assert first["latency_s"] == 2.0
    assert "error" not in first
    assert second["error"] == "503: Redis is away"
