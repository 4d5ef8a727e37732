"""The command that measures what 8-bit weights change."""

import json
import math
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench.quality.quantization import TEXT, choose_dtype, compare_quantizations, read_lines
from shared.errors import FalconerError

app = typer.Typer()
app.command()(compare_quantizations)


def test_the_tiny_model_changes_little_and_has_low_perplexity(tmp_path: Path) -> None:
    report = tmp_path / "out.json"
    words = ["--quantization", "int8", "--quantization", "int8-weight-only", "--num-texts", "4"]
    result = CliRunner().invoke(app, [*words, "--json", str(report)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "same first choice" in result.output
    figures = json.loads(report.read_text())
    whole, int8, weight_only = figures.values()
    assert whole["top1_agreement"] == 1
    assert 1 < whole["perplexity"] < 2.5
    for row in (int8, weight_only):
        assert row["tokens"] == whole["tokens"] > 100
        assert 0.9 < row["top1_agreement"]
        assert math.isclose(row["perplexity"], whole["perplexity"], rel_tol=0.05)
        assert row["perplexity"] != whole["perplexity"]


def test_a_cpu_measures_emulated_fp8_in_its_dtype(tmp_path: Path) -> None:
    report = tmp_path / "out.json"
    words = ["--quantization", "fp8", "--device", "cpu", "--num-texts", "4", "--json", str(report)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "fp8 (emulated)" in result.output
    figures = json.loads(report.read_text())
    assert list(figures) == ["none", "fp8 (emulated)"]
    whole, fp8 = figures.values()
    assert fp8["tokens"] == whole["tokens"] > 100
    assert 0.9 < fp8["top1_agreement"] < 1
    assert math.isclose(fp8["perplexity"], whole["perplexity"], rel_tol=0.05)


def test_fp8_in_a_dtype_that_workers_refuse_is_an_error() -> None:
    assert choose_dtype("auto", ["int8-weight-only", "fp8"]) == "bfloat16"
    assert choose_dtype("auto", ["int8"]) == "auto"
    with pytest.raises(FalconerError, match="fp8 needs --dtype bfloat16, not float32"):
        choose_dtype("float32", ["fp8"])


def test_lines_are_read_in_order_without_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("one\n\n  \ntwo\nthree\n")
    assert read_lines(tmp_path / "text", 2) == ["one", "two"]
    assert len(read_lines(TEXT, 1_000)) == 200


@pytest.mark.parametrize(("content", "part"), [(None, "no such file"), ("\n", "has no text")])
def test_the_error_names_a_file_without_text(
    content: str | None, part: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "text").write_text(content)
    with pytest.raises(FalconerError, match=part):
        read_lines(tmp_path / "text", 1)
