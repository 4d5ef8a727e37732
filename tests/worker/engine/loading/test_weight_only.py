"""A model with 8-bit weights in the engine says what transformers says with the rounded weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.engine.oracle import generate, load_judge
from tests.worker.engine.rounded import (
    GREEDY,
    RoundSummed,
    both_as_one,
    each_alone,
    guests,
    in_halves,
    rounded_judge,
    told,
)
from worker.engine import Engine, EngineConfig, Executor, Quantization, SamplingParams
from worker.engine.execution.openvino_runner import OpenVinoRunner
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.checkpoint.info import describe
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.layers.weight_only_linear import WeightOnlyLinear

SAMPLING = SamplingParams(max_new_tokens=16, do_sample=True, top_k=20, seed=1)
CROWDED = EngineConfig(max_rows=8, num_blocks=9, max_step_tokens=24)

pytestmark = pytest.mark.usefixtures("no_follower_is_left")


def load(path: Path, config: EngineConfig = CROWDED, **options: Any) -> Engine:
    return Engine.from_pretrained(
        str(path), config=config, quantization=Quantization.INT8_WEIGHT_ONLY, **options
    )


@pytest.mark.parametrize(
    ("like", "executor", "round_summed"),
    [
        *((like, Executor.TORCH, each_alone) for like in ("7b", "40b", "11b", "rw")),
        *((like, Executor.OPENVINO, both_as_one) for like in ("7b", "40b", "11b")),
    ],
)
def test_greedy_equals_generate_with_the_rounded_weights(
    like: str, executor: Executor, round_summed: RoundSummed, tmp_path: Path
) -> None:
    path = write_random_checkpoint(tmp_path, like=like)
    judge, company = rounded_judge(path, round_summed), guests(12)
    engine = load(path, dtype="float32", executor=executor)
    expected = [generate(judge, list(guest.prompt), GREEDY) for guest in company]
    assert told(engine, company) == expected
    whole = load_judge(path)[0]
    assert expected != [generate(whole, list(guest.prompt), GREEDY) for guest in company]


def test_by_itself_float32_runs_on_openvino(tmp_path: Path) -> None:
    engine = load(write_random_checkpoint(tmp_path), dtype="float32")
    assert isinstance(engine._runner, OpenVinoRunner)


@pytest.mark.parametrize("like", ["7b", "40b", "11b", "rw"])
def test_the_weights_take_as_much_memory_as_foretold(like: str, tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path, like=like, dtype=torch.bfloat16)
    runner = load(path)._runner
    assert isinstance(runner, ModelRunner)
    model = runner._model
    tensors: set[torch.Tensor] = set(model.parameters())
    for layer in model.modules():
        if isinstance(layer, WeightOnlyLinear):
            tensors |= {layer._weight, layer._scale}
    foretold = describe(str(path), quantization=Quantization.INT8_WEIGHT_ONLY).weight_bytes
    assert sum(tensor.nbytes for tensor in tensors) == foretold
    assert foretold < describe(str(path)).weight_bytes


@pytest.mark.parametrize("quantization", [Quantization.INT8, Quantization.INT8_WEIGHT_ONLY])
def test_whole_weights_are_let_go_once_openvino_has_rounded_them(
    quantization: Quantization, tmp_path: Path
) -> None:
    path = write_random_checkpoint(tmp_path)
    engine = Engine.from_pretrained(
        str(path), dtype="float32", executor=Executor.OPENVINO, quantization=quantization
    )
    assert isinstance(engine._runner, OpenVinoRunner)
    model = engine._runner._model
    assert not [name for name, weight in model.transformer.h.named_parameters() if weight.ndim > 1]
    assert told(engine, guests(1)) != [[]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("params", [GREEDY, SAMPLING], ids=["greedy", "sampling"])
def test_tokens_are_the_same_alone_and_among_others(
    dtype: str, params: SamplingParams, tmp_path: Path
) -> None:
    path = write_random_checkpoint(tmp_path)
    roomy = EngineConfig(max_rows=16)
    company = guests(16, params)
    among_others = told(load(path, roomy, dtype=dtype), company)
    assert among_others == [told(load(path, roomy, dtype=dtype), [one])[0] for one in company]


@pytest.mark.parametrize("like", ["40b", "rw"])
def test_in_two_parts_each_rounds_what_it_holds(like: str, tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path, like=like)
    judge, company = rounded_judge(path, in_halves), guests(6)
    engine = load(path, dtype="float32", device="cpu", tensor_parallel=2)
    expected = [generate(judge, list(guest.prompt), GREEDY) for guest in company]
    assert told(engine, company) == expected
