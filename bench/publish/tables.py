"""Make the Markdown tables of docs/benchmarks.md from the figures."""

import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bench.peers.contenders import Mode
from bench.peers.tables import with_range
from bench.publish.plots import PLOTS

Figures = dict[str, Any]

BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
NOT_MEASURED = "Not measured.\n"


def fill(page: str, figures: Figures) -> str:
    """Return the page with the contents of each `<!-- figures: SECTION -->` block replaced."""

    def block(match: re.Match[str]) -> str:
        section = match[2]
        if section not in figures:
            return f"{match[1]}\n{NOT_MEASURED}\n{match[3]}"
        parts = [
            described_machine(figures["machine"][section]),
            SECTIONS[section](figures[section]),
        ]
        if section in PLOTS:
            parts.append(f"![{section}](images/benchmarks-{section}.svg)\n")
        return "\n".join([match[1], *parts, match[3]])

    return BLOCK.sub(block, page)


def described_machine(machine: Figures) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['date']}, {machine['cores']} virtual cores of {machine['processor']}, "
        f"{machine['memory_gib']} GiB, {versions}:\n"
    )


def engine_tables(section: Figures) -> str:
    """Return a table per number of rows."""
    return "\n".join(engine_table(rows, section[rows]) for rows in sorted(section, key=descending))


def descending(rows: str) -> int:
    return -int(rows)


def engine_table(rows: str, figures: Figures) -> str:
    ratios = [summary["falconer_is_faster"] for summary in figures["contenders"].values()]
    modes = [mode for mode in Mode if any(mode in ratio for ratio in ratios)]
    over = [f"{mode} Falconer over it" for mode in modes]
    unit = "row" if rows == "1" else "rows"
    heads = [f"{rows} {unit}", "computes with", "tokens/s", "agreement", *over]
    lines = [
        [
            name,
            summary["settings"],
            f"{statistics.median(summary['tokens_per_s']):,.0f}",
            f"{summary['agreement']:.0%}",
            *(with_range(summary["falconer_is_faster"][mode]) for mode in modes),
        ]
        for name, summary in figures["contenders"].items()
    ]
    lines += [[name, f"failed: {message}"] for name, message in figures["failures"].items()]
    return markdown(heads, lines)


def internals_table(section: Figures) -> str:
    breakdown, steps, latency = (
        section[name] for name in ("step_breakdown", "parameters", "latency")
    )
    phases = ((p, s / breakdown["engine_s"]) for p, s in breakdown["phases_s"].items())
    lines = [[f"phase {phase}", f"{share:.1%} of a step"] for phase, share in phases]
    alone = f"{breakdown['dense_alone_over_engine']:.1%} of a step"
    lines.append(["dense layers and head alone, after each step", alone])
    lines += [
        ["sampling (top_k 50, top_p 0.95) over greedy", f"{steps['sampling_over_greedy']:.2f}"],
        ["32 different parameter sets over equal ones", f"{steps['different_over_equal']:.2f}"],
        ["1,500-token prompt: typical gap over median", f"{latency['usual_over_median']:.2f}"],
        ["1,500-token prompt: worst step over median", f"{latency['step_max_over_median']:.2f}"],
    ]
    return markdown([section["variant"], "figure"], lines)


def bandwidth_table(section: Figures) -> str:
    heads = ["model", "computes with", "GB per step", "rows", "tokens/s", "limit", "share of it"]
    return markdown(heads, bandwidth_lines(section))


def bandwidth_lines(section: Figures) -> Iterator[list[str]]:
    for name, result in section.items():
        for share in result["rows"]:
            yield [
                name,
                result["variant"],
                f"{result['bytes_per_step'] / 1e9:.2f}",
                str(share["rows"]),
                f"{share['tokens_per_s']:.1f}",
                f"{share['limit_tokens_per_s']:.1f} at {share['read_gb_per_s']:.1f} GB/s",
                f"{share['share_of_limit']:.0%}",
            ]


def sweep_table(section: Figures) -> str:
    heads = ["model", "defaults", "best found", "defaults over best"]
    names = ("max_rows", "max_step_tokens", "max_chunk_tokens", "threads")
    lines = [
        [
            name,
            chosen(sweep["default"], names),
            chosen(sweep["best"], names) or "the defaults",
            with_range(sweep["default_over_best"]),
        ]
        for name, sweep in section.items()
    ]
    return markdown(heads, lines)


def chosen(settings: Figures, names: Iterable[str]) -> str:
    return ", ".join(f"{name} {settings[name]}" for name in names if name in settings)


def service_table(section: Figures) -> str:
    heads = ["server", "load", "tokens/s", "TTFT p50 / p99", "between tokens p50 / p99", "goodput"]
    return markdown(heads, service_lines(section["summary"]))


def service_lines(summary: Figures) -> Iterator[list[str]]:
    for side, loads in summary.items():
        for load, figures in loads.items():
            ttft = [f"{figures[f'ttft_s_{p}'][1]:.2f}" for p in ("p50", "p99")]
            gaps = [f"{1000 * figures[f'inter_token_s_{p}'][1]:.0f}" for p in ("p50", "p99")]
            good = figures.get("good")
            rate = figures.get("rate")
            yield [
                side,
                f"{load} ({rate[1]:.1f} requests/s)" if rate else load,
                f"{figures['tokens_per_s'][1]:,.0f}",
                f"{' / '.join(ttft)} s",
                f"{' / '.join(gaps)} ms",
                f"{figures['goodput_per_s'][1]:.1f}/s ({good[1]:.0%})" if good else "",
            ]


def serve_table(section: Figures) -> str:
    heads = ["model", "ready", "first token", "tokens/s of 1 / 8 rows", "peak loading", "serving"]
    lines = [
        [
            name,
            f"{figures['ready_s']:.0f} s",
            f"{figures['ttft_s']:.2f} s",
            " / ".join(f"{speed:.2f}" for speed in figures["tokens_per_s"].values()),
            *(f"{peak['whole'] / 1e9:.1f} GB" for peak in figures["peaks"].values()),
        ]
        for name, figures in section.items()
    ]
    return markdown(heads, lines)


def markdown(heads: list[str], lines: Iterable[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


SECTIONS: dict[str, Callable[[Figures], str]] = {
    "engine": engine_tables,
    "internals": internals_table,
    "bandwidth": bandwidth_table,
    "sweep": sweep_table,
    "service": service_table,
    "serve": serve_table,
}
