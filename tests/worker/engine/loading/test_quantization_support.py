"""What is said where weights cannot be had in 8 bits."""

from importlib.machinery import ModuleSpec

import pytest
import torch

from worker.engine import Quantization
from worker.engine.loading import quantization_support
from worker.engine.loading.quantization_support import check_quantization

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
INT8, WEIGHT_ONLY, FP8 = Quantization


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU and an installation that can do everything."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = ModuleSpec("torchao", None)
    monkeypatch.setattr(quantization_support, "find_spec", lambda name: found)


def test_whole_weights_run_anywhere() -> None:
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
    monkeypatch.setattr(quantization_support, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"it is the extra falconer\[quantization\]"):
        check_quantization(FP8, dtype=torch.bfloat16, device=CUDA)
