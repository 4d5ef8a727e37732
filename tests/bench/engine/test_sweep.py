"""The search for the best settings, with speeds that the test gives."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.engine import sweep
from bench.engine.sweep import Bench, Trial, search, summarize
from shared.errors import FalconerError

VALUES = {"max_rows": (32, 64), "max_step_tokens": (256, 512)}
DEFAULT = {"max_rows": 16, "max_step_tokens": 128}


def summary_of(settings: dict[str, int], tokens_per_s: float) -> dict[str, Any]:
    times = {"p50": 0.1, "p95": 0.2, "p99": 0.3}
    return {
        "tokens_per_s": tokens_per_s,
        "inter_token_s": times,
        "ttft_s": times,
        "settings": {**DEFAULT, **settings},
    }


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench on which 64 rows are twice as fast, and 256 tokens half again as fast."""

    def run_to_json(
        command: tuple[str, ...], json_out: Path, threads: int, variables: dict[str, str]
    ) -> dict[str, Any]:
        settings = {name.removeprefix("FALCONER_").lower(): int(v) for name, v in variables.items()}
        if settings.get("max_step_tokens") == 512:
            raise FalconerError("max_step_tokens must not exceed 256")
        faster = 2 if settings.get("max_rows") == 64 else 1
        more = 1.5 if settings.get("max_step_tokens") == 256 else 1
        return {"summary": summary_of(settings, 100 * faster * more)}

    monkeypatch.setattr(sweep, "run_to_json", run_to_json)
    monkeypatch.setattr(sweep, "VALUES", VALUES)
    return Bench(("bench",), tmp_path, 1)


def test_each_setting_starts_from_the_best_of_those_before(bench: Bench) -> None:
    trials = search(bench, list(VALUES), Console(quiet=True))
    tried = [(trial.settings, trial.ratio) for trial in trials]
    assert tried == [
        ({}, 1.0),
        ({"max_rows": 32}, 1.0),
        ({"max_rows": 64}, 2.0),
        ({"max_rows": 64, "max_step_tokens": 256}, 3.0),
    ]


def test_settings_that_the_engine_refuses_are_skipped(bench: Bench) -> None:
    trials = search(bench, ["max_step_tokens"], Console(quiet=True))
    assert [trial.settings for trial in trials] == [{}, {"max_step_tokens": 256}]


def test_the_defaults_are_a_share_of_the_best(bench: Bench) -> None:
    trials = search(bench, ["max_rows"], Console(quiet=True))
    final = Trial({"max_rows": 64}, [2.0, 1.6, 4.0], [summary_of({"max_rows": 64}, 200)])
    result = summarize(final, trials, summary_of({}, 100))
    assert result["default_over_best"] == [0.25, 0.5, 1 / 1.6]
    assert result["default"]["max_rows"] == 16
    assert result["best"]["max_rows"] == 64
    assert [trial["settings"] for trial in result["trials"]] == [{"max_rows": 32}, {"max_rows": 64}]


def test_defaults_that_nothing_beats_are_the_best(bench: Bench) -> None:
    trials = [Trial({}, [1.0])]
    result = summarize(Trial({}), trials, summary_of({}, 100))
    assert result["default_over_best"] == [1.0, 1.0, 1.0]
    assert result["best"] == {}
