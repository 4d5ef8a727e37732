"""Scores by single positions equal the scores of transformers in one pass."""

import math
from pathlib import Path

import pytest
import torch

from bench.quality.perplexity import ROWS_PER_STEP, TextScores, score_texts
from tests.worker.model.oracle import load_oracle, oracle_logits
from worker.engine import Engine, EngineConfig, Executor
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint


@pytest.mark.parametrize("executor", [Executor.TORCH, Executor.OPENVINO])
def test_every_position_has_the_oracles_token_and_cost(executor: Executor, tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path)
    config = EngineConfig(num_blocks=8)
    engine = Engine.from_pretrained(str(path), dtype="float32", executor=executor, config=config)
    generator = torch.Generator().manual_seed(0)
    texts = [
        torch.randint(500, (length,), generator=generator).tolist()
        for length in (2, ROWS_PER_STEP + 1, 2 * ROWS_PER_STEP + 30)
    ]
    seen = score_texts(engine, texts)
    oracle = load_oracle(path)
    logits = torch.cat([oracle_logits(oracle, text)[:-1] for text in texts])
    following = torch.tensor([token_id for text in texts for token_id in text[1:]])
    costs = torch.nn.functional.cross_entropy(logits, following, reduction="none")
    assert seen.best_token_ids == logits.argmax(dim=-1).tolist()
    torch.testing.assert_close(torch.tensor(seen.nats), costs, rtol=1e-4, atol=1e-4)


def test_perplexity_is_the_exponential_of_the_mean_cost() -> None:
    assert TextScores([1, 2], [math.log(2), math.log(8)]).perplexity == pytest.approx(4)


def test_agreement_counts_equal_tokens() -> None:
    costs = [0.0] * 4
    assert TextScores([1, 2, 3, 4], costs).agreement(TextScores([1, 2, 0, 4], costs)) == 0.75
