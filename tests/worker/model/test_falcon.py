import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.model.oracle import load_oracle, oracle_greedy, oracle_logits
from tests.worker.model.packed import (
    generate_greedily,
    make_kv_cache,
    prefill,
    scatter,
    step,
)
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.checkpoint.weights import load_model
from worker.model.falcon import FalconForCausalLM

CPU = torch.device("cpu")
VOCAB_SIZE = 512
TOLERANCE = 1e-4  # logits have a standard deviation of about 2
NEAR_TIE = 1e-4  # the oracle itself may fall either way, on other kernels

DYNAMIC_ROPE = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}

Pair = tuple[FalconForCausalLM, Any]


def random_prompts(seed: int, lengths: list[int]) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB_SIZE) for _ in range(length)] for length in lengths]


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


def test_a_prompt_gets_the_logits_of_the_oracle(pair: Pair) -> None:
    model, oracle = pair
    (prompt,) = random_prompts(1, [37])
    assert_close(prefill(model, prompt), oracle_logits(oracle, prompt))


def test_a_long_prompt_gets_the_logits_of_the_oracle(pair: Pair) -> None:
    model, oracle = pair  # beyond 256 positions, where bfloat16 rounds alibi's products
    (prompt,) = random_prompts(2, [700])
    assert_close(prefill(model, prompt), oracle_logits(oracle, prompt))


def test_packed_prompts_do_not_see_each_other(pair: Pair) -> None:
    model, oracle = pair
    prompts = random_prompts(3, [1, 5, 30, 5, 17, 4])
    sequences, num_blocks = scatter(prompts, max_length=30, rng=random.Random(3))
    kv_cache = make_kv_cache(model, num_blocks)
    work = [(sequence, len(sequence.token_ids)) for sequence in sequences]
    for prompt, logits in zip(prompts, step(model, kv_cache, work), strict=True):
        assert_close(logits, oracle_logits(oracle, prompt))


def test_chunks_and_single_tokens_mix_in_one_step(pair: Pair) -> None:
    model, oracle = pair
    prompts = random_prompts(4, [23, 40, 9])
    sequences, num_blocks = scatter(prompts, max_length=40, rng=random.Random(4))
    kv_cache = make_kv_cache(model, num_blocks)
    first, second, third = sequences
    parts: dict[int, list[torch.Tensor]] = {id(sequence): [] for sequence in sequences}
    for work in (
        [(first, 10)],
        [(second, 1), (first, 12)],
        [(third, 8), (first, 1), (second, 17)],
        [(second, 22), (third, 1)],
    ):
        for (sequence, _), logits in zip(work, step(model, kv_cache, work), strict=True):
            parts[id(sequence)].append(logits)
    for sequence, prompt in zip(sequences, prompts, strict=True):
        assert_close(torch.cat(parts[id(sequence)]), oracle_logits(oracle, prompt))


def test_greedy_continuations_in_a_batch_equal_the_oracle_alone(pair: Pair) -> None:
    model, oracle = pair
    rng = random.Random(5)
    prompts = random_prompts(5, [rng.randint(1, 24) for _ in range(32)])
    continuations = generate_greedily(model, prompts, 16, rng)
    num_compared = 0
    for prompt, actual in zip(prompts, continuations, strict=True):
        expected, margins = oracle_greedy(oracle, prompt, 16)
        clear = int((margins < NEAR_TIE).int().cumsum(0).eq(0).sum())
        assert actual[:clear] == expected[:clear]
        num_compared += clear
    assert num_compared >= 0.95 * 32 * 16


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_how_a_sequence_is_cut_into_steps_does_not_matter(pair: Pair, data: st.DataObject) -> None:
    model, _ = pair
    seed = data.draw(st.integers(0, 2**32), label="seed")
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=5), label="lengths")
    prompts = random_prompts(seed, lengths)
    sequences, num_blocks = scatter(prompts, max_length=20, rng=random.Random(seed))
    kv_cache = make_kv_cache(model, num_blocks)
    last: dict[int, torch.Tensor] = {}
    while waiting := [s for s in sequences if s.num_computed < len(s.token_ids)]:
        work = [(s, data.draw(st.integers(1, len(s.token_ids) - s.num_computed))) for s in waiting]
        for (sequence, _), logits in zip(work, step(model, kv_cache, work), strict=True):
            last[id(sequence)] = logits[-1]
    for sequence, prompt in zip(sequences, prompts, strict=True):
        assert_close(last[id(sequence)], prefill(model, prompt)[-1])


def test_nan_in_the_blocks_of_a_failed_sequence_affects_no_other(pair: Pair) -> None:
    model, oracle = pair
    prompts = random_prompts(6, [12, 4, 27])
    sequences, num_blocks = scatter(prompts, max_length=40, rng=random.Random(6))
    kv_cache = make_kv_cache(model, num_blocks)
    kv_cache.keys.fill_(torch.nan)
    kv_cache.values.fill_(torch.nan)
    step(model, kv_cache, [(s, len(s.token_ids) - 1) for s in sequences])
    last_tokens = step(model, kv_cache, [(s, 1) for s in sequences])
    for prompt, logits in zip(prompts, last_tokens, strict=True):
        assert_close(logits, oracle_logits(oracle, prompt)[-1:])


def test_bfloat16_is_as_near_to_float32_as_the_oracles(pair: Pair) -> None:
    _, oracle = pair
    path = oracle.config.name_or_path
    half_model = load_model(path, dtype=torch.bfloat16, device=CPU)
    half_oracle = load_oracle(Path(path), torch.bfloat16)
    (prompt,) = random_prompts(7, [300])
    exact = oracle_logits(oracle, prompt)
    our_error = (prefill(half_model, prompt) - exact).abs().mean()
    oracle_error = (oracle_logits(half_oracle, prompt) - exact).abs().mean()
    assert half_model.transformer.ln_f.weight.dtype == torch.bfloat16
    assert our_error <= 1.2 * oracle_error


@pytest.mark.parametrize(
    ("like", "sizes"),
    [
        ("7b", {"hidden_size": 72, "num_heads": 9}),
        ("40b", {"num_kv_heads": 1}),
        ("40b", {"num_kv_heads": 8}),
        ("rw", {"hidden_size": 96, "num_heads": 12}),  # alibi beyond a power of 2
        ("rw", {"hidden_size": 60, "num_heads": 5}),
    ],
)
def test_other_numbers_of_heads_work_too(tmp_path: Path, like: str, sizes: dict[str, Any]) -> None:
    write_random_checkpoint(tmp_path, like=like, **sizes)
    (prompt,) = random_prompts(8, [50])
    actual = prefill(load_model(str(tmp_path), device=CPU), prompt)
    assert_close(actual, oracle_logits(load_oracle(tmp_path), prompt))


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "gelu_pytorch_tanh"},
        {"layer_norm_epsilon": 0.1},
        {"alibi": True},
        {"rope_theta": 500.0, "rope_parameters": None},
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": None},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
        DYNAMIC_ROPE,
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 512,
            }
        },
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
    ids=lambda changes: json.dumps(changes),
)
def test_options_of_the_configuration_act_as_in_the_oracle(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_random_checkpoint(tmp_path, like="7b", num_layers=1)
    (prompt,) = random_prompts(9, [90])
    before = oracle_logits(load_oracle(tmp_path), prompt)
    change_config(tmp_path, changes)
    expected = oracle_logits(load_oracle(tmp_path), prompt)
    assert_close(prefill(load_model(str(tmp_path), device=CPU), prompt), expected)
    acts = not torch.allclose(before, expected, atol=TOLERANCE, rtol=0)
    assert acts or changes == DYNAMIC_ROPE  # which acts only beyond the context


def change_config(path: Path, changes: dict[str, Any]) -> None:
    file = path / "config.json"
    merged = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: v for name, v in merged.items() if v is not None}))
