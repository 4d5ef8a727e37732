"""Which runtime a model gets, and what is said when the one asked for cannot run it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worker.engine import EngineConfig, Executor, Quantization
from worker.engine.loading import backend as executor_module
from worker.engine.loading.backend import choose_executor
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import plan_loading
from worker.model.config import ModelConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def falcon_7b(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return plan_loading(write_random_checkpoint(tmp_path_factory.mktemp("7b"))).model.config


def choose(
    model_config: ModelConfig,
    wanted: Executor = Executor.AUTO,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    quantization: Quantization | None = None,
    block_size: int = 32,
) -> Executor:
    return choose_executor(
        wanted,
        model_config,
        dtype=dtype,
        device=device,
        quantization=quantization,
        config=EngineConfig(block_size=block_size),
    )


def test_a_float32_falcon_on_the_cpu_runs_on_openvino(falcon_7b: ModelConfig) -> None:
    assert choose(falcon_7b) is Executor.OPENVINO


def test_torch_is_there_for_everything_else(falcon_7b: ModelConfig) -> None:
    assert choose(falcon_7b, device=CUDA) is Executor.TORCH
    assert choose(falcon_7b, dtype=torch.bfloat16) is Executor.TORCH
    assert choose(falcon_7b, block_size=16) is Executor.TORCH
    assert choose(replace(falcon_7b, alibi=True)) is Executor.TORCH
    assert choose(replace(falcon_7b, activation="relu")) is Executor.TORCH
    assert choose(falcon_7b, Executor.TORCH) is Executor.TORCH


def test_without_the_package_torch_takes_over(
    falcon_7b: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "find_spec", lambda _: None)
    assert choose(falcon_7b) is Executor.TORCH
    with pytest.raises(ValueError, match="the package openvino is not installed"):
        choose(falcon_7b, Executor.OPENVINO)


def test_asking_for_openvino_where_it_cannot_run_says_why(falcon_7b: ModelConfig) -> None:
    with pytest.raises(ValueError, match="block_size must be 32, not 16"):
        choose(falcon_7b, Executor.OPENVINO, block_size=16)
    with pytest.raises(ValueError, match="needs device cpu and dtype float32, not cuda"):
        choose(falcon_7b, Executor.OPENVINO, device=CUDA)
    with pytest.raises(ValueError, match="alibi"):
        choose(replace(falcon_7b, alibi=True), Executor.OPENVINO)


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512_vnni", Executor.OPENVINO), ("avx2", Executor.TORCH)]
)
def test_8_bit_layers_go_to_whoever_multiplies_8_bit_numbers_on_this_cpu(
    falcon_7b: ModelConfig,
    flags: str,
    expected: Executor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(executor_module, "CPU_INFO", tmp_path / "cpuinfo")
    assert choose(falcon_7b, quantization=Quantization.INT8) is expected
    assert choose(falcon_7b, quantization=Quantization.INT8_WEIGHT_ONLY) is Executor.OPENVINO
