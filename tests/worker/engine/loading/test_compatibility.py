"""Which executor and which quantization a model may have, and the errors for others."""

from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from worker.engine import EngineConfig, Executor, Quantization
from worker.engine.loading import compatibility
from worker.engine.loading.compatibility import (
    check_quantization,
    choose_executor,
    multiplies_bfloat16,
)
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import plan_loading
from worker.model.config import ModelConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
INT8, WEIGHT_ONLY, FP8, INT4 = Quantization


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


@pytest.fixture
def cpu_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that changes what the CPU says of itself."""

    def write(flags: str) -> None:
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        monkeypatch.setattr(compatibility, "CPU_INFO", tmp_path / "cpuinfo")

    return write


def test_a_float32_falcon_on_the_cpu_runs_on_openvino(falcon_7b: ModelConfig) -> None:
    assert choose(falcon_7b) is Executor.OPENVINO


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx512f avx512_bf16", Executor.OPENVINO),
        ("avx512f amx_bf16", Executor.OPENVINO),
        ("avx512f avx512_vnni", Executor.TORCH),
        ("asimd bf16", Executor.TORCH),
    ],
)
def test_bfloat16_runs_on_openvino_where_its_runtime_multiplies_it(
    flags: str, expected: Executor, falcon_7b: ModelConfig, cpu_flags: Callable[[str], None]
) -> None:
    cpu_flags(flags)
    assert choose(falcon_7b, dtype=torch.bfloat16) is expected
    assert multiplies_bfloat16() is ("bf16" in flags)
    quantized = choose(falcon_7b, dtype=torch.bfloat16, quantization=WEIGHT_ONLY)
    assert quantized is Executor.TORCH


def test_torch_runs_every_other_model(falcon_7b: ModelConfig) -> None:
    assert choose(falcon_7b, device=CUDA) is Executor.TORCH
    assert choose(falcon_7b, dtype=torch.float16) is Executor.TORCH
    assert choose(falcon_7b, block_size=16) is Executor.TORCH
    assert choose(replace(falcon_7b, alibi=True)) is Executor.TORCH
    assert choose(replace(falcon_7b, activation="relu")) is Executor.TORCH
    assert choose(falcon_7b, Executor.TORCH) is Executor.TORCH


def test_without_the_package_torch_takes_over(
    falcon_7b: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compatibility, "find_spec", lambda _: None)
    assert choose(falcon_7b) is Executor.TORCH
    with pytest.raises(ValueError, match="the package openvino is not installed"):
        choose(falcon_7b, Executor.OPENVINO)


def test_an_unsupported_request_for_openvino_names_the_reason(falcon_7b: ModelConfig) -> None:
    with pytest.raises(ValueError, match="block_size must be 32, not 16"):
        choose(falcon_7b, Executor.OPENVINO, block_size=16)
    with pytest.raises(ValueError, match="needs device cpu and dtype float32 or bfloat16, not cu"):
        choose(falcon_7b, Executor.OPENVINO, device=CUDA)
    with pytest.raises(ValueError, match="alibi"):
        choose(replace(falcon_7b, alibi=True), Executor.OPENVINO)


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512_vnni", Executor.OPENVINO), ("avx2", Executor.TORCH)]
)
def test_int8_layers_run_on_the_executor_that_multiplies_8_bit_numbers_on_this_cpu(
    falcon_7b: ModelConfig,
    flags: str,
    expected: Executor,
    cpu_flags: Callable[[str], None],
) -> None:
    cpu_flags(flags)
    assert choose(falcon_7b, quantization=Quantization.INT8) is expected
    assert choose(falcon_7b, quantization=Quantization.INT8_WEIGHT_ONLY) is Executor.OPENVINO


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU and an installation that support every kind."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = ModuleSpec("torchao", None)
    monkeypatch.setattr(compatibility, "find_spec", lambda name: found)


def test_unquantized_weights_run_on_any_device() -> None:
    check_quantization(None, dtype=torch.bfloat16, device=CUDA)


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weight_only_runs_anywhere(device: torch.device, dtype: torch.dtype) -> None:
    check_quantization(WEIGHT_ONLY, dtype=dtype, device=device)


def test_int8_is_for_float32_on_the_cpu() -> None:
    check_quantization(INT8, dtype=torch.float32, device=CPU)
    for dtype, device in ((torch.bfloat16, CPU), (torch.float32, CUDA)):
        with pytest.raises(
            ValueError, match="quantization int8 needs device cpu and dtype float32"
        ):
            check_quantization(INT8, dtype=dtype, device=device)


@pytest.mark.usefixtures("hopper")
def test_fp8_is_for_bfloat16_on_a_gpu() -> None:
    check_quantization(FP8, dtype=torch.bfloat16, device=CUDA)
    for dtype, device in ((torch.bfloat16, CPU), (torch.float32, CUDA), (torch.float16, CUDA)):
        with pytest.raises(ValueError, match="quantization fp8 needs device cuda and dtype bfloat"):
            check_quantization(FP8, dtype=dtype, device=device)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 9), True), ((10, 0), True)])
def test_fp8_needs_a_gpu_that_multiplies_8_bit_floats(
    capability: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    if fits:
        check_quantization(FP8, dtype=torch.bfloat16, device=CUDA)
    else:
        with pytest.raises(ValueError, match=r"capability 8\.9 or above, cuda:0 has 8\.0"):
            check_quantization(FP8, dtype=torch.bfloat16, device=CUDA)


@pytest.mark.usefixtures("hopper")
def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"it is the extra falconer\[quantization\]"):
        check_quantization(FP8, dtype=torch.bfloat16, device=CUDA)
