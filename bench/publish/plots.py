"""Draw the plots of docs/benchmarks.md as SVG files, which are equal for equal figures."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.peers.contenders import Mode, Side

Figures = dict[str, Any]

NAMES = {
    "falconer": "Falconer",
    "genai": "OpenVINO GenAI",
    "vllm": "vLLM",
    "engine": "engine alone",
}
NAMES["generate"] = "transformers"
COLORS = {"falconer": "#1b6ca8", "genai": "#e08e2b", "vllm": "#5b8c5a", "generate": "#9a9a9a"}
COLORS["engine"] = "#7fb2d9"
WIDTH = 0.25  # of a bar


def draw(figures: Figures, folder: Path, suffix: str = "svg") -> list[Path]:
    """Write a plot for each measured section and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for section, plot in PLOTS.items():
        if section in figures:
            path = folder / f"benchmarks-{section}.{suffix}"
            with styled() as figure:
                plot(figure, figures[section])
                save(figure, path)
            written.append(path)
    return written


@contextmanager
def styled() -> Iterator[Figure]:
    """Yield a figure; its SVG keeps text as text and has no random ids."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "falconer",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        yield Figure(figsize=(7.5, 3), layout="constrained", facecolor="white")


def save(figure: Figure, path: Path) -> None:
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=120)
    if path.suffix == ".svg":  # the library ends some lines with a space
        lines = (line.rstrip() for line in path.read_text().splitlines())
        path.write_text("\n".join(lines) + "\n")


def plot_engine(figure: Figure, section: Figures) -> None:
    """Draw tokens per second of each engine by mode, at the most rows; lines are the range."""
    rows = max(section, key=int)
    contenders = section[rows]["contenders"].values()
    axes = figure.subplots()
    sides = [side for side in Side if side is not Side.GENERATE]
    modes = [mode for mode in Mode if any(c["mode"] == mode for c in contenders)]
    for place, side in enumerate(sides):
        speeds = {c["mode"]: c["tokens_per_s"] for c in contenders if c["side"] == side}
        at = [i + (place - 1) * WIDTH for i, mode in enumerate(modes) if mode in speeds]
        values = [speeds[mode] for mode in modes if mode in speeds]
        draw_bars(axes, at, values, side)
    axes.set_xticks(range(len(modes)), [f"{mode} mode" for mode in modes])
    axes.set_ylabel("tokens/s")
    axes.set_title(f"Engines at {rows} rows")
    axes.legend(frameon=False, loc="upper left")


def draw_bars(axes: Axes, at: list[float], values: list[list[float]], side: str) -> None:
    """Draw the medians as bars with their values, and the ranges as lines."""
    medians = [statistics.median(v) for v in values]
    below = [m - min(v) for m, v in zip(medians, values, strict=True)]
    above = [max(v) - m for m, v in zip(medians, values, strict=True)]
    bars = axes.bar(
        at, medians, WIDTH * 0.92, yerr=[below, above], label=NAMES[side], color=COLORS[side]
    )
    axes.bar_label(bars, [f"{m:,.0f}" for m in medians], padding=2)
    axes.margins(y=0.12)


def plot_bandwidth(figure: Figure, section: Figures) -> None:
    """Draw decoding as a share of what memory bandwidth allows."""
    axes = figure.subplots()
    shares = [
        (f"{name}, {share['rows']} row{'s' if share['rows'] > 1 else ''}", share["share_of_limit"])
        for name, result in section.items()
        for share in result["rows"]
    ][::-1]
    names, values = [name for name, _ in shares], [100 * share for _, share in shares]
    bars = axes.barh(names, values, color=COLORS["falconer"])
    axes.bar_label(bars, [f"{share:.0%}" for _, share in shares], padding=2)
    axes.axvline(100, color="black", linewidth=0.8)
    axes.set_xlabel("% of the speed at which memory delivers the weights")
    axes.set_title("Decoding and memory bandwidth")


def plot_sweep(figure: Figure, section: Figures) -> None:
    """Draw the speed of each tried setting over the defaults', by its p99 between tokens."""
    axes = figure.subplots()
    for name, sweep in section.items():
        gaps = [1000 * trial["inter_token_p99_s"] for trial in sweep["trials"]]
        dots = axes.scatter(gaps, [t["over_default"] for t in sweep["trials"]], s=14, label=name)
        star = [1000 * sweep["default"]["inter_token_p99_s"]]
        axes.scatter(star, [1.0], s=90, marker="*", color=dots.get_facecolor(), zorder=3)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xlabel("p99 between tokens, ms (star: the defaults)")
    axes.set_ylabel("tokens/s over the defaults'")
    axes.set_title("Settings")
    axes.legend(frameon=False)


def plot_service(figure: Figure, section: Figures) -> None:
    """Draw throughput by clients, and p99 of first token and gaps by the rate of arrivals."""
    throughput, ttft, gaps = figure.subplots(1, 3)
    for side, loads in section["summary"].items():
        look = {"color": COLORS[side], "label": NAMES[side], "marker": "o", "markersize": 4}
        closed = {n: f for n, f in loads.items() if "client" in n}
        tokens = [figures["tokens_per_s"][1] for figures in closed.values()]
        throughput.plot([name.split()[0] for name in closed], tokens, **look)
        arrivals = {n: f for n, f in loads.items() if "client" not in n}
        shares = [name.split()[0] for name in arrivals]
        ttft.plot(shares, [f["ttft_s_p99"][1] for f in arrivals.values()], **look)
        gaps.plot(shares, [1000 * f["inter_token_s_p99"][1] for f in arrivals.values()], **look)
    titles = ("tokens/s", "first token, p99, s", "between tokens, p99, ms")
    labels = ("clients", "arrivals, of capacity", "arrivals, of capacity")
    for axes, title, label in zip((throughput, ttft, gaps), titles, labels, strict=True):
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
    throughput.legend(frameon=False, fontsize=8)


PLOTS: dict[str, Callable[[Figure, Figures], None]] = {
    "engine": plot_engine,
    "bandwidth": plot_bandwidth,
    "sweep": plot_sweep,
    "service": plot_service,
}
