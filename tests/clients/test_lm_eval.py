"""lm-eval gives the same numbers through HTTP as its `hf` backend on the same checkpoint.

Runs if `make lm-eval-test` has made its environment, which has transformers too.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.openai_client import MODEL
from tests.running_service import ROOT, running_service
from worker.model.checkpoint.tiny import bundled_checkpoint

PYTHON = ROOT / ".falconer" / "lm-eval" / "bin" / "python"
TASKS = ("heldout_perplexity", "heldout_ending", "heldout_continuation")
LIMIT = 60  # stories of each task
TIMEOUT_S = 600.0

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not PYTHON.exists(), reason="make lm-eval-test installs lm-eval"),
]

Samples = dict[str, list[dict[str, Any]]]  # by task, in order


@pytest.fixture(scope="module")
def exact_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a service that computes in float32."""
    with running_service(tmp_path_factory.mktemp("float32"), FALCONER_DTYPE="float32") as address:
        yield address


def evaluate(folder: Path, backend: str, **model_args: Any) -> tuple[dict[str, Any], Samples]:
    """Run lm-eval; return the metrics by task, and the samples."""
    command = [str(PYTHON), "-m", "lm_eval", "run", "--model", backend, "--tasks", *TASKS]
    command += ["--model_args", *(f"{name}={value}" for name, value in model_args.items())]
    command += ["--include_path", str(Path(__file__).parent / "lm_eval"), "--limit", str(LIMIT)]
    command += ["--output_path", str(folder), "--log_samples", "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [results] = folder.rglob("results_*.json")
    samples = {
        task: sorted(
            map(json.loads, next(folder.rglob(f"samples_{task}_*.jsonl")).read_text().splitlines()),
            key=lambda sample: int(sample["doc_id"]),
        )
        for task in TASKS
    }
    metrics: dict[str, Any] = json.loads(results.read_text())["results"]
    return metrics, samples


def test_lm_eval_has_the_numbers_of_its_own_backend(exact_url: str, tmp_path: Path) -> None:
    over_http, http_samples = evaluate(
        tmp_path / "http",
        "local-completions",
        model=MODEL,
        base_url=f"{exact_url}/v1/completions",
        tokenizer_backend="remote",
        num_concurrent=8,
        max_length=2048,
    )
    alone, samples = evaluate(
        tmp_path / "hf", "hf", pretrained=bundled_checkpoint(), dtype="float32", max_length=2047
    )
    for task in TASKS:
        for name, value in numbers(alone[task]).items():
            assert numbers(over_http[task])[name] == pytest.approx(value, rel=1e-5), (task, name)
    for task, ours in http_samples.items():
        assert len(ours) == len(samples[task]) >= LIMIT // 2
        for one, other in zip(ours, samples[task], strict=True):
            assert one["arguments"] == other["arguments"]
            assert_equal(one["filtered_resps"], other["filtered_resps"])


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def assert_equal(ours: Any, expected: Any) -> None:
    """Compare texts and flags exactly, and log-likelihoods in nats as far as float32 goes."""
    if isinstance(expected, list):
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            assert_equal(one, other)
    else:
        try:
            assert float(ours) == pytest.approx(float(expected), abs=2e-3)
        except ValueError:
            assert ours == expected
