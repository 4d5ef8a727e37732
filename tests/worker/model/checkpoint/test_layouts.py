"""Every layout of a checkpoint computes the logits of transformers, or is refused in one line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as transformers_logging

from tests.worker.model.checkpoint.layouts import LAYOUTS, make_layout
from tests.worker.model.oracle import load_oracle, oracle_greedy, oracle_logits
from tests.worker.model.packed import prefill
from worker.model.checkpoint.weights import load_model, plan_loading
from worker.model.errors import CheckpointError

PROMPT = list(range(20, 60))
VOCAB = 512  # of the unchanged folder; a table may have more rows
NUM_NEW = 4


@pytest.fixture(autouse=True)
def silent_transformers() -> Iterator[None]:
    """It reports every stray tensor."""
    verbosity: Any = transformers_logging  # its functions have no types
    before = verbosity.get_verbosity()
    verbosity.set_verbosity(verbosity.CRITICAL)
    yield
    verbosity.set_verbosity(before)


def ask_transformers(folder: Path) -> Any:
    """Its network, or the error it raises: whatever a foreign library may."""
    try:
        return load_oracle(folder)
    except Exception as error:
        return error


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_computes_what_transformers_computes_or_is_refused_in_a_line(
    name: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    original = checkpoint(layout.like)
    folder = make_layout(layout, original, tmp_path / "model")
    theirs = ask_transformers(folder)
    assert isinstance(theirs, Exception) == (layout.transformers == "refuses"), theirs
    if layout.refusal is not None:
        with pytest.raises(CheckpointError, match=layout.refusal) as refusal:
            load_model(str(folder), device=torch.device("cpu"))
        assert "\n" not in str(refusal.value)
        return
    oracle = theirs if layout.transformers == "loads" else load_oracle(original)
    model = load_model(str(folder), dtype=torch.float32, device=torch.device("cpu"))
    logits, expected = prefill(model, PROMPT), oracle_logits(oracle, PROMPT)
    torch.testing.assert_close(logits[:, :VOCAB], expected[:, :VOCAB], atol=1e-4, rtol=0)
    tokens = PROMPT
    for _ in range(NUM_NEW):
        tokens = [*tokens, int(prefill(model, tokens)[-1, :VOCAB].argmax())]
    assert tokens[len(PROMPT) :] == oracle_greedy(oracle, PROMPT, NUM_NEW)[0]
    if layout.transformers == "leaves weights random":
        assert not torch.allclose(oracle_logits(theirs, PROMPT), expected, atol=0.1)


def test_the_dtype_of_an_old_config_is_followed(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = make_layout(LAYOUTS["torch.bfloat16"], checkpoint("7b"), tmp_path / "model")
    assert plan_loading(folder).dtype is torch.bfloat16


def test_ignored_tensors_are_logged(
    checkpoint: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_layout(LAYOUTS["other heads"], checkpoint("7b"), tmp_path / "heads")
    load_model(str(folder), device=torch.device("cpu"))
    assert "ignored tensors that the network lacks: score.weight, v_head.summary" in caplog.text
    folder = make_layout(LAYOUTS["a table of more rows"], checkpoint("7b"), tmp_path / "rows")
    model = load_model(str(folder), device=torch.device("cpu"))
    assert model.config.vocab_size == 576
    assert "vocab_size is 512; the 576 rows of the embedding table count" in caplog.text
