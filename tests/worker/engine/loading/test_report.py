"""The load report of an engine."""

from pathlib import Path

import pytest

from tests.fakes import engine_on_fake_runner
from worker.engine import Engine, Executor
from worker.engine.loading.report import LoadPhase
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.layers.quantization import Quantization

EXECUTORS = (Executor.TORCH, Executor.OPENVINO)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_phase_of_a_load_is_timed(executor: Executor) -> None:
    if executor is Executor.OPENVINO:
        pytest.importorskip("openvino")
    engine = Engine.from_pretrained(
        str(bundled_checkpoint()), dtype="float32", executor=executor, num_threads=1
    )
    report = engine.load_report
    assert all(seconds > 0 for seconds in report.seconds.values()), report
    assert report.memory is not None
    assert report.memory.kv_tokens == engine.total_kv_tokens
    assert report.memory.weight_bytes == report.weight_bytes == 2 * report.read_bytes


def test_the_log_has_a_field_for_each_phase_and_the_pace_of_reading() -> None:
    engine = Engine.from_pretrained(str(bundled_checkpoint()), executor=Executor.TORCH)
    fields = engine.load_report.to_log()
    assert {f"{phase}_s" for phase in LoadPhase} <= fields.keys()
    assert fields["read_gb_per_s"] > 0
    size = Path(bundled_checkpoint() / "model.safetensors").stat().st_size
    assert fields["read_gb"] == pytest.approx(size / 1e9, abs=0.001)
    assert fields["kv_blocks"] * engine.config.block_size == fields["kv_tokens"]


def test_the_log_has_no_pace_of_reading_for_weights_that_are_quantized_meanwhile() -> None:
    engine = Engine.from_pretrained(
        str(bundled_checkpoint()),
        executor=Executor.TORCH,
        quantization=Quantization.INT8_WEIGHT_ONLY,
    )
    fields = engine.load_report.to_log()
    assert fields["read_gb"] > 0
    assert "read_gb_per_s" not in fields


def test_the_load_report_of_an_engine_that_was_given_its_runner_is_empty() -> None:
    report = engine_on_fake_runner().load_report
    assert report.memory is None
    assert set(report.to_log().values()) == {0.0}
