"""The comparison's tables."""

from rich.console import Console, RenderableType

from bench.peers.tables import contenders_table, costs_table, phases_table


def printed(table: RenderableType) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_contenders_show_median_and_range_and_failures_their_error() -> None:
    summary = {
        "tokens_per_s": [40.0, 48.04, 60.0],
        "falconer_is_faster": {"float32": [3.9, 4.25, 5.1], "best": [6.0, 7.0, 8.0]},
        "agreement": 0.5,
        "same_outputs": 0.97,
    }
    text = printed(contenders_table(64, {"genai": summary}, {"vllm": "no wheel for this machine"}))
    assert "64 rows" in text
    assert "48.0" in text
    assert "4.25 (3.90 to 5.10)" in text
    assert "7.00 (6.00 to 8.00)" in text
    assert "50%" in text
    assert "97%" in text
    assert "no wheel for this machine" in text


def test_phases_are_shown_per_step_and_as_shares() -> None:
    breakdown = {
        "steps": 10,
        "engine_s": 2.0,
        "dense_alone_s": 1.7,
        "dense_alone_over_engine": 0.85,
        "phases_s": {"dense layers": 1.5, "sampling": 0.5},
    }
    rows = [line.split() for line in printed(phases_table(breakdown)).splitlines()]
    assert ["dense", "layers", "150.00", "75.0%"] in rows
    assert ["all", "200.00"] in rows
    assert ["dense", "layers", "and", "head", "alone", "170.00", "85.0%"] in rows


def test_costs_are_shown_with_their_targets() -> None:
    internals = {
        "parameters": {"sampling_over_greedy": 1.021, "different_over_equal": 1.08},
        "latency": {
            "usual_over_median": 1.4,
            "max_over_median": 1.7,
            "step_max_over_median": 1.6,
            "quiet_max_over_median": 1.2,
        },
    }
    text = printed(costs_table(internals))
    assert "1.021" in text
    assert "≤ 1.05" in text
