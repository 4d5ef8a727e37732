"""Decoding as a share of the memory limit, on the bundled model."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench.engine import bandwidth
from bench.engine.bandwidth import bytes_per_step, decode, make_reader
from bench.engine.engine_bench import EngineBench
from worker.engine import Engine


def load(**flags: str) -> Engine:
    return EngineBench("tiny", device="cpu", executor="torch", threads=1, **flags).load()[0]


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "READ_BYTES", 2**20)


def test_a_step_reads_each_weight_once_in_its_format() -> None:
    config = load().model_config
    embeddings = config.vocab_size * config.hidden_size
    weights = config.num_parameters - (0 if config.tie_word_embeddings else embeddings)
    assert bytes_per_step(load(dtype="float32")) == 4 * weights
    assert bytes_per_step(load(dtype="bfloat16")) == 2 * weights
    assert bytes_per_step(load(dtype="float32", quantization="int8")) == weights


def test_the_head_of_weight_only_quantization_keeps_the_dtype() -> None:
    engine = load(dtype="float32", quantization="int8-weight-only")
    head = engine.model_config.vocab_size * engine.model_config.hidden_size
    assert bytes_per_step(engine) - 3 * head == bytes_per_step(
        load(dtype="float32", quantization="int8")
    )


def test_decoding_leaves_the_engine_idle() -> None:
    engine = load(dtype="float32")
    for rows in (1, 3):
        assert all(seconds > 0 for seconds in decode(engine, rows, rounds=2, steps=2))
        assert not engine.has_work


def test_threads_read_the_whole_buffer(small_reads: None) -> None:
    assert make_reader(2)() > 0


def test_the_command_adds_its_figures_to_the_file(tmp_path: Path, small_reads: None) -> None:
    app = typer.Typer()
    app.command()(bandwidth.measure)
    figures = tmp_path / "figures.json"
    flags = ("--model", "tiny", "--threads", "1", "--rounds", "1", "--figures", str(figures))
    result = CliRunner().invoke(app, flags, catch_exceptions=False)
    assert "share of it" in result.output
    [measured] = json.loads(figures.read_text())["bandwidth"].values()
    for share in measured["rows"]:
        share_of_limit = share["tokens_per_s"] / share["limit_tokens_per_s"]
        assert share["share_of_limit"] == pytest.approx(share_of_limit)
