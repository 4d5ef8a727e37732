"""Tables and plots of the benchmarks' page."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.publish.__main__ import DOCS, write_page
from bench.publish.plots import draw
from bench.publish.tables import fill

MACHINE = {
    "date": "2026-12-01",
    "processor": "a CPU (avx2)",
    "cores": 2,
    "memory_gib": 24,
    "versions": {"torch": "2.13.0"},
}
BLOCKS = "<!-- figures: {} -->\nold\n<!-- end -->\n"


def contender(side: str, mode: str, speeds: list[float]) -> dict[str, Any]:
    return {
        "side": side,
        "mode": mode,
        "settings": "int8 weights",
        "tokens_per_s": speeds,
        "falconer_is_faster": {"float32": [0.9, 1.0, 1.1], "best": [1.2, 1.3, 1.4]},
        "agreement": 0.5,
        "same_outputs": 0.1,
    }


def load_of(tokens_per_s: float, rate: float | None = None) -> dict[str, list[float]]:
    names = ("ttft_s_p50", "ttft_s_p99", "inter_token_s_p50", "inter_token_s_p99")
    figures = {name: [0.1, 0.2, 0.3] for name in names}
    figures |= {"tokens_per_s": [1.0, tokens_per_s, 9999.0], "good": [1.0] * 3}
    return figures | {"goodput_per_s": [2.0] * 3, "rate": [rate] * 3 if rate else []}


@pytest.fixture
def figures() -> dict[str, Any]:
    share = {"rows": 1, "step_s": 0.1, "tokens_per_s": 10.0, "read_gb_per_s": 20.0}
    share |= {"limit_tokens_per_s": 12.5, "share_of_limit": 0.8}
    times = {"tokens_per_s": 900.0, "inter_token_p99_s": 0.09, "ttft_p50_s": 0.5}
    loads = {"1 client": load_of(1234), "80% of capacity": load_of(777, 2.5)}
    sections: dict[str, Any] = {
        "engine": {
            "64": {
                "contenders": {
                    "falconer, float32": contender("falconer", "float32", [700, 800, 900]),
                    "falconer, best": contender("falconer", "best", [1500, 1600, 1700]),
                    "genai, float32": contender("genai", "float32", [750, 780, 790]),
                },
                "failures": {"vllm": "no wheel"},
            }
        },
        "bandwidth": {
            "model, int8": {"variant": "dtype float32", "bytes_per_step": 7e9, "rows": [share]}
        },
        "sweep": {
            "model, auto": {
                "default": {"max_rows": 32, **times},
                "best": {"max_rows": 64, **times},
                "default_over_best": [0.93, 0.96, 0.99],
                "trials": [{"settings": {"max_rows": 64}, "over_default": 1.04, **times}],
            }
        },
        "service": {"summary": {"falconer": loads, "vllm": loads}},
    }
    peak = {"whole": 15e9, "worker": 14e9, "with_files": 14e9}
    served: dict[str, Any] = {
        "ready_s": 20.4,
        "ttft_s": 0.66,
        "tokens_per_s": {"1": 1.95, "8": 13.0},
    }
    served["peaks"] = {"loading": peak, "serving": {**peak, "whole": 14.5e9}}
    sections["serve"] = {"falcon-7b-random, defaults": served}
    sections["service"]["summary"]["engine"] = {"1 client": load_of(1300)}
    return {**sections, "machine": dict.fromkeys(sections, MACHINE)}


def test_tables_have_the_figures_of_each_section(figures: dict[str, Any]) -> None:
    page = "".join(BLOCKS.format(section) for section in figures if section != "machine")
    filled = fill(page, figures)
    assert "old" not in filled
    for row in (
        "| falconer, float32 | int8 weights | 800 | 50% | 1.00 (0.90 to 1.10) | 1.30 (1.20 to ",
        "| vllm | failed: no wheel |",
        "| model, int8 | dtype float32 | 7.00 | 1 | 10.0 | 12.5 at 20.0 GB/s | 80% |",
        "| model, auto | max_rows 32 | max_rows 64 | 0.96 (0.93 to 0.99) |",
        "| falconer | 1 client | 1,234 | 0.20 / 0.20 s | 200 / 200 ms | 2.0/s (100%) |",
        "| vllm | 80% of capacity (2.5 requests/s) | 777 |",
        "| falcon-7b-random, defaults | 20 s | 0.66 s | 1.95 / 13.00 | 15.0 GB | 14.5 GB |",
    ):
        assert row in filled
    assert filled.count("2026-12-01, 2 virtual cores of a CPU (avx2), 24 GiB, torch 2.13.0:") == 5


def test_filling_a_page_again_changes_nothing(figures: dict[str, Any]) -> None:
    page = fill(BLOCKS.format("sweep"), figures)
    assert fill(page, figures) == page


def test_a_section_without_figures_says_so() -> None:
    assert "Not measured." in fill(BLOCKS.format("engine"), {})


def test_equal_figures_give_equal_plots(figures: dict[str, Any], tmp_path: Path) -> None:
    first = [path.read_bytes() for path in draw(figures, tmp_path / "a")]
    second = [path.read_bytes() for path in draw(figures, tmp_path / "b")]
    assert len(first) == 4
    assert first == second
    assert b"800" in first[0], "text stays text"


def test_the_page_shows_its_figures(tmp_path: Path) -> None:
    """`python -m bench.publish` writes page and plots from benchmarks.json."""
    for name in ("benchmarks.md", "benchmarks.json"):
        shutil.copy(DOCS / name, tmp_path / name)
    write_page(tmp_path)
    assert (tmp_path / "benchmarks.md").read_text() == (DOCS / "benchmarks.md").read_text()
    plots = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert plots == sorted(path.name for path in (DOCS / "images").glob("benchmarks-*"))
