"""A network quantized while it is read computes what a loaded, then quantized network does."""

from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.engine.sampling.rows import make_sequence
from tests.worker.model.layers.test_quantize_groups import dequantized
from worker.engine import EngineConfig, Executor, Quantization
from worker.engine.execution.openvino_runner import CompiledFalcon, OpenVinoRunner
from worker.engine.execution.torch_runner import ModelRunner, Runner
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import load_runner
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import load_model
from worker.model.falcon import FalconForCausalLM
from worker.model.openvino_falcon import QuantizedWeights
from worker.model.quantized_linears import quantize_linears

CPU = torch.device("cpu")
STYLES = ["7b", "40b", "11b"]


def logits_of(runner: Runner) -> torch.Tensor:
    sequence = make_sequence([7, 3, 250, 8, 8, 1] * 9)
    sequence.block_table = array("i", [2, 0])
    plan = StepPlan((Chunk(SequenceGroup([sequence]), sequence, 0, sequence.num_tokens),))
    return runner.forward(plan).clone()


def streamed(path: Path, executor: Executor, quantization: Quantization | None) -> torch.Tensor:
    options: dict[str, Any] = {"executor": executor, "quantization": quantization}
    config = EngineConfig(num_blocks=3)
    return logits_of(
        load_runner(LoadOptions(str(path), dtype="float32", config=config, **options)).runner
    )


def loaded(path: Path) -> FalconForCausalLM:
    return load_model(str(path), dtype=torch.float32, device=CPU)


def on_openvino(model: FalconForCausalLM, quantized: QuantizedWeights | None) -> torch.Tensor:
    compiled = CompiledFalcon.compile(
        model, num_threads=1, quantized=quantized, kv_dtype=torch.float32
    )
    return logits_of(OpenVinoRunner(compiled, num_blocks=3))


def weight_of(linear: nn.Linear) -> torch.Tensor:
    return linear.weight.detach()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Quantization.INT8, Quantization.INT8_WEIGHT_ONLY])
@pytest.mark.parametrize("like", STYLES)
def test_on_openvino_logits_are_the_same_bits(
    like: str, kind: Quantization, stored: torch.dtype, tmp_path: Path
) -> None:
    path = write_random_checkpoint(tmp_path, like=like, dtype=stored)
    whole = loaded(path)
    expected = on_openvino(whole, QuantizedWeights.of(whole, kind, weight_of))
    assert torch.equal(streamed(path, Executor.OPENVINO, kind), expected)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Quantization.INT8, Quantization.INT8_WEIGHT_ONLY])
@pytest.mark.parametrize("like", [*STYLES, "rw"])
def test_on_torch_logits_are_the_same_bits(
    like: str, kind: Quantization, stored: torch.dtype, tmp_path: Path
) -> None:
    path = write_random_checkpoint(tmp_path, like=like, dtype=stored)
    whole = loaded(path)
    quantize_linears(whole, kind, CPU, weight_of)
    runner = ModelRunner.with_cache(whole, num_blocks=3, block_size=32)
    torch.testing.assert_close(
        streamed(path, Executor.TORCH, kind), logits_of(runner), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("like", STYLES)
def test_4_bit_weights_compute_what_their_values_say(like: str, tmp_path: Path) -> None:
    """The rounding of the inputs changes little, compared with the 4-bit weights."""
    path = write_random_checkpoint(tmp_path, like=like, hidden_size=256, dtype=torch.bfloat16)
    whole = on_openvino(loaded(path), None)
    written_out = loaded(path)
    for layer in written_out.transformer.h:
        for linear in (module for module in layer.modules() if isinstance(module, nn.Linear)):
            linear.weight.data = dequantized(linear.weight.data)
    reference = on_openvino(written_out, None)
    logits = streamed(path, Executor.OPENVINO, Quantization.INT4)
    assert (logits - reference).norm() < 0.2 * (reference - whole).norm()
