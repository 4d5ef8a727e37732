"""The engine with 8-bit weights gives the output of transformers with the quantized weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.engine.oracle import generate, load_oracle
from tests.worker.engine.quantized_oracle import (
    GREEDY,
    QuantizeSummed,
    generate_all,
    quantize_halves,
    quantize_jointly,
    quantize_separately,
    quantized_oracle,
    scheduled_requests,
)
from worker.engine import Engine, EngineConfig, Executor, Quantization, SamplingParams
from worker.engine.execution.openvino_runner import OpenVinoRunner
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.checkpoint.info import describe
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import plan_loading
from worker.model.falcon import FalconForCausalLM
from worker.model.layers.weight_only_linear import WeightOnlyLinear

SAMPLING = SamplingParams(max_new_tokens=16, do_sample=True, top_k=20, seed=1)
SMALL_CACHE = EngineConfig(max_rows=8, num_blocks=9, max_step_tokens=24)

pytestmark = pytest.mark.usefixtures("no_process_is_left")


def load(path: Path, config: EngineConfig = SMALL_CACHE, **options: Any) -> Engine:
    return Engine.from_pretrained(
        str(path), config=config, quantization=Quantization.INT8_WEIGHT_ONLY, **options
    )


@pytest.mark.parametrize(
    ("like", "executor", "quantize_summed"),
    [
        *((like, Executor.TORCH, quantize_separately) for like in ("7b", "40b", "11b", "rw")),
        *((like, Executor.OPENVINO, quantize_jointly) for like in ("7b", "40b", "11b")),
    ],
)
def test_greedy_equals_generate_with_the_quantized_weights(
    like: str, executor: Executor, quantize_summed: QuantizeSummed, tmp_path: Path
) -> None:
    path = write_random_checkpoint(tmp_path, like=like)
    oracle, workload = quantized_oracle(path, quantize_summed), scheduled_requests(12)
    engine = load(path, dtype="float32", executor=executor)
    expected = [generate(oracle, list(scheduled.prompt), GREEDY) for scheduled in workload]
    assert generate_all(engine, workload) == expected
    whole = load_oracle(path)[0]
    assert expected != [generate(whole, list(scheduled.prompt), GREEDY) for scheduled in workload]


def test_auto_runs_float32_on_openvino(tmp_path: Path) -> None:
    engine = load(write_random_checkpoint(tmp_path), dtype="float32")
    assert isinstance(engine.runner, OpenVinoRunner)


def embedding_bytes(model: FalconForCausalLM) -> int:
    return model.transformer.word_embeddings.weight.nbytes


@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_the_weights_take_as_much_memory_as_forecast(like: str, tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path, like=like, dtype=torch.bfloat16)
    runner = load(path).runner
    assert isinstance(runner, ModelRunner)
    model = runner.model
    tensors: set[torch.Tensor] = set(model.parameters())
    for layer in model.modules():
        if isinstance(layer, WeightOnlyLinear):
            tensors |= {layer._weight, layer._scale}
    head_bytes = 0 if model.config.tie_word_embeddings else embedding_bytes(model)  # packed
    plan = plan_loading(path)
    foretold = describe(plan, quantization=Quantization.INT8_WEIGHT_ONLY).weight_bytes
    assert sum(tensor.nbytes for tensor in tensors) + head_bytes == foretold
    assert foretold < describe(plan).weight_bytes


@pytest.mark.parametrize(
    "quantization", [Quantization.INT8, Quantization.INT8_WEIGHT_ONLY, Quantization.INT4]
)
def test_with_openvino_the_network_itself_has_no_weights_of_quantized_layers(
    quantization: Quantization, tmp_path: Path
) -> None:
    path = write_random_checkpoint(tmp_path)
    engine = Engine.from_pretrained(
        str(path), dtype="float32", executor=Executor.OPENVINO, quantization=quantization
    )
    assert isinstance(engine.runner, OpenVinoRunner)
    layers = engine.runner.falcon.model.transformer.h
    assert all(weight.is_meta == (weight.ndim > 1) for weight in layers.parameters())
    assert generate_all(engine, scheduled_requests(1)) != [[]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("params", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_tokens_are_the_same_alone_and_together(
    dtype: str, params: SamplingParams, tmp_path: Path
) -> None:
    path = write_random_checkpoint(tmp_path)
    roomy = EngineConfig(max_rows=16)
    workload = scheduled_requests(16, params)
    together = generate_all(load(path, roomy, dtype=dtype), workload)
    assert together == [generate_all(load(path, roomy, dtype=dtype), [one])[0] for one in workload]


@pytest.mark.parametrize("like", ["40b", "rw"])
def test_each_of_two_ranks_quantizes_its_own_part(like: str, tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path, like=like)
    oracle, workload = quantized_oracle(path, quantize_halves), scheduled_requests(6)
    engine = load(path, dtype="float32", device="cpu", tensor_parallel=2)
    expected = [generate(oracle, list(scheduled.prompt), GREEDY) for scheduled in workload]
    assert generate_all(engine, workload) == expected
