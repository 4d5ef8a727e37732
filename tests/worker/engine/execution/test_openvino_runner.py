"""The network on OpenVINO: the same tokens as transformers, whatever the workload."""

import ctypes
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM

from tests.worker.engine.oracle import generate, load_oracle, silence
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine import (
    Engine,
    EngineConfig,
    Executor,
    Quantization,
    Request,
    SamplingParams,
    TokenOutput,
)
from worker.engine.execution.openvino_runner import OpenVinoRunner
from worker.engine.loading.compatibility import multiplies_bfloat16
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import load_runner
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

WITH_BFLOAT16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="the CPU lacks bfloat16")
GREEDY = SamplingParams(max_new_tokens=16)
SMALL_CACHE = EngineConfig(max_rows=8, num_blocks=9, max_step_tokens=24)


@dataclass(frozen=True)
class Falcon:
    path: Path
    oracle: Any


@pytest.fixture(scope="module", params=["7b", "40b", "11b"])
def falcon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Falcon:
    silence()
    path = write_random_checkpoint(tmp_path_factory.mktemp(request.param), like=request.param)
    return Falcon(path, load_oracle(path)[0])


def load(
    falcon: Falcon,
    config: EngineConfig,
    quantization: Quantization | None = None,
    dtype: str = "float32",
) -> tuple[Engine, OpenVinoRunner]:
    engine = Engine.from_pretrained(
        str(falcon.path),
        dtype=dtype,
        executor=Executor.OPENVINO,
        quantization=quantization,
        config=config,
    )
    assert isinstance(engine.runner, OpenVinoRunner)
    return engine, engine.runner


def prompts(falcon: Falcon, count: int) -> list[list[int]]:
    random = Random(count)
    vocab_size = falcon.oracle.config.vocab_size
    return [
        [random.randrange(vocab_size) for _ in range(random.randint(1, 70))] for _ in range(count)
    ]


def run(
    engine: Engine, wishes: list[list[int]], params: SamplingParams = GREEDY
) -> list[list[int]]:
    for number, prompt in enumerate(wishes):
        engine.add(Request(request_id=str(number), prompt_token_ids=prompt, params=params))
    token_ids: dict[str, list[int]] = {str(number): [] for number in range(len(wishes))}
    while engine.has_work:
        for output in engine.step():
            assert isinstance(output, TokenOutput), output
            token_ids[output.request_id].append(output.token_id)
    return list(token_ids.values())


def test_greedy_equals_generate_in_a_batch_with_preemptions(falcon: Falcon) -> None:
    engine, _ = load(falcon, SMALL_CACHE)
    wishes = prompts(falcon, 16)
    long = SamplingParams(max_new_tokens=50)
    expected = [generate(falcon.oracle, prompt, long) for prompt in wishes]
    assert run(engine, wishes, long) == expected
    assert engine.scheduler.num_preemptions > 0


def test_blocks_that_other_sequences_left_are_never_read(falcon: Falcon) -> None:
    wishes = prompts(falcon, 6)
    engine, runner = load(falcon, SMALL_CACHE)
    for cache in runner.kv_caches.values():
        cache[:] = np.nan
    assert run(engine, wishes) == [generate(falcon.oracle, prompt, GREEDY) for prompt in wishes]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=WITH_BFLOAT16)])
def test_a_copied_block_holds_what_its_source_holds_in_every_layer(
    falcon: Falcon, dtype: str
) -> None:
    engine, runner = load(falcon, SMALL_CACHE, dtype=dtype)
    run(engine, prompts(falcon, 1))
    before = {name: cache.copy() for name, cache in runner.kv_caches.items()}
    source = next(block for block in range(9) if before["key_cache.0"][block].any())
    target = (source + 1) % 9
    runner.copy_blocks([(source, target)])
    for name, cache in runner.kv_caches.items():
        np.testing.assert_array_equal(cache[target], before[name][source])
        np.testing.assert_array_equal(cache[source], before[name][source])


def test_8_bit_weights_mostly_agree_on_the_next_token(falcon: Falcon) -> None:
    engine, _ = load(falcon, EngineConfig(max_rows=8), Quantization.INT8)
    wishes = prompts(falcon, 40)
    ours = [tokens[0] for tokens in run(engine, wishes)]
    exact = [generate(falcon.oracle, prompt, GREEDY)[0] for prompt in wishes]
    agreement = np.mean(np.array(ours) == np.array(exact))
    assert 0.7 < agreement


SHAPES = {
    "one norm": {"multi_query": True, "parallel_attn": True},
    "two norms": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "sequential": {"multi_query": False, "parallel_attn": False},
}


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_our_own_network(shape: str, bias: bool, tmp_path: Path) -> None:
    """Also in shapes that no published Falcon has: rotary and sequential, or with biases."""
    write_falcon(tmp_path, bias=bias, **SHAPES[shape])
    sequence = make_sequence([7, 3, 250, 8, 8, 1] * 9)
    sequence.block_table = array("i", [2, 0])
    plan = StepPlan((Chunk(SequenceGroup([sequence]), sequence, 0, sequence.num_tokens),))
    torch_logits, openvino_logits = (
        load_runner(
            LoadOptions(str(tmp_path), executor=executor, config=EngineConfig(num_blocks=3))
        ).runner.forward(plan)
        for executor in (Executor.TORCH, Executor.OPENVINO)
    )
    assert torch_logits.std() > 0.1
    torch.testing.assert_close(openvino_logits, torch_logits, rtol=1e-4, atol=1e-4)


def write_falcon(path: Path, **shape: Any) -> None:
    torch.manual_seed(0)
    config = FalconConfig(
        vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, **shape
    )
    falcon: Any = FalconForCausalLM(config)
    for parameter in falcon.parameters():  # biases too, which start at zero
        parameter.data.normal_(std=0.2)
    falcon.save_pretrained(path)


def test_the_kv_cache_is_in_memory_before_the_first_step(falcon: Falcon) -> None:
    _, runner = load(falcon, EngineConfig(num_blocks=4096))
    assert all(is_resident(cache) for cache in runner.kv_caches.values())
    assert not is_resident(np.zeros(2**26))  # reserved, but not in memory yet


def is_resident(array: np.ndarray[Any, Any]) -> bool:
    """Whether the system has given memory for every page that lies wholly in the array."""
    page = os.sysconf("SC_PAGE_SIZE")
    start = -(-array.ctypes.data // page) * page
    num_pages = (array.ctypes.data + array.nbytes - start) // page
    pages = (ctypes.c_ubyte * num_pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(num_pages * page), pages)
    assert result == 0, os.strerror(ctypes.get_errno())
    return all(pages)


def test_the_runtime_takes_each_rotation_for_one_operator(falcon: Falcon) -> None:
    """It recognizes the exact form; any other form costs six operators."""
    engine, runner = load(falcon, SMALL_CACHE)
    graph = runner.infer_request.get_compiled_model().get_runtime_model()
    kinds = [node.get_rt_info()["layerType"].value for node in graph.get_ops()]
    assert kinds.count("RoPE") == engine.model_config.num_layers
