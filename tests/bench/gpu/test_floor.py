"""The lower bound of a step, for models with published sizes."""

import pytest
import torch

from bench.gpu.card import Card
from bench.gpu.floor import decode_cost, prefill_cost
from bench.gpu.scale import PUBLISHED

CARD = Card("a card", copied_bytes_per_s=3e12, read_bytes_per_s=4e12, flop_per_s=800e12)


@pytest.mark.parametrize(
    ("like", "weights", "kv_per_token"),
    [("7b", 13_843_441_408, 8192), ("40b", 82_606_587_904, 122_880)],
)
def test_a_decode_step_reads_all_weights_once_and_every_rows_cache(
    like: str, weights: int, kv_per_token: int
) -> None:
    config = PUBLISHED.model_config(like)
    cost = decode_cost(config, torch.bfloat16, num_rows=64, context=512)
    assert cost.num_bytes == weights + 64 * 512 * kv_per_token
    # Two operations per weight and row, plus attention, which is less than a tenth here.
    assert 64 * weights < cost.num_flop < 1.1 * 64 * weights


def test_untied_embeddings_are_not_read_completely() -> None:
    config = PUBLISHED.model_config("11b")
    cost = decode_cost(config, torch.bfloat16, num_rows=1, context=1)
    embeddings = config.vocab_size * config.hidden_size
    kv_bytes = config.kv_bytes_per_token(torch.bfloat16)
    assert cost.num_bytes == 2 * (config.num_parameters - embeddings) + kv_bytes


def test_few_rows_are_memory_bound_and_a_long_prompt_compute_bound() -> None:
    config = PUBLISHED.model_config("7b")
    one_row = decode_cost(config, torch.bfloat16, num_rows=1, context=512)
    assert one_row.floor_s(CARD) == one_row.num_bytes / CARD.read_bytes_per_s
    prompt = prefill_cost(config, torch.bfloat16, num_tokens=2048)
    assert prompt.floor_s(CARD) == prompt.num_flop / CARD.flop_per_s


def test_a_prompt_has_one_row_of_logits_and_half_a_square_of_attention() -> None:
    config = PUBLISHED.model_config("7b")
    head = config.vocab_size * config.hidden_size
    attention = 4 * 32 * 71 * 64 * (2048 * 2049 // 2)
    cost = prefill_cost(config, torch.bfloat16, num_tokens=2048)
    assert cost.num_flop == 2 * 2048 * (config.num_parameters - head) + 2 * head + attention
