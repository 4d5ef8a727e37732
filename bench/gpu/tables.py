"""Tables of the figures of `bench.gpu`."""

from collections.abc import Iterable

from rich.table import Table

from bench.gpu.card import Card
from bench.gpu.checks import Check
from bench.gpu.cold_start import ColdStart
from bench.gpu.profiling import Profile
from bench.gpu.steps import StepTime
from worker.model.fused.fusing import DecoderLayers

# What arithmetic predicts for an H200: milliseconds of an eager decoding step with 512 tokens of
# context, by layers, model and rows. From 4.3 TB/s and 790 TFLOP/s. Products below 60 MB reach 68 %
# of the bandwidth, larger products 80 to 86 %, merged products 88 %. Small kernels take 2.5 us. No
# launch waits for the host.
DECODE_MS = {
    (DecoderLayers.FUSED, "7b", 1): 4.3,
    (DecoderLayers.FUSED, "7b", 64): 4.4,
    (DecoderLayers.FUSED, "7b", 256): 7.4,
    (DecoderLayers.FUSED, "40b", 64): 24.3,
    (DecoderLayers.FUSED, "40b", 256): 42.6,
    (DecoderLayers.SEPARATE, "7b", 1): 5.7,
    (DecoderLayers.SEPARATE, "7b", 64): 6.1,
    (DecoderLayers.SEPARATE, "7b", 256): 9.6,
}
# The same in a CUDA graph, whose small kernels take 1.8 us.
GRAPH_MS = {
    (DecoderLayers.FUSED, "7b", 1): 4.2,
    (DecoderLayers.FUSED, "7b", 64): 4.3,
    (DecoderLayers.FUSED, "7b", 256): 7.2,
    (DecoderLayers.FUSED, "40b", 64): 24.2,
    (DecoderLayers.FUSED, "40b", 256): 42.3,
    (DecoderLayers.SEPARATE, "7b", 1): 5.4,
    (DecoderLayers.SEPARATE, "7b", 64): 5.7,
    (DecoderLayers.SEPARATE, "7b", 256): 8.9,
}
# The share of the floor that the project aims at.
AIMS = {("7b", 1): 0.75, ("7b", 8): 0.75, ("7b", 64): 0.75, ("7b", 256): 0.6, ("40b", 64): 0.75}


def card_table(card: Card) -> Table:
    table = Table("device", card.name, box=None)
    table.add_row("memory, copied", f"{card.copied_bytes_per_s / 1e9:,.1f} GB/s")
    table.add_row("memory, read", f"{card.read_bytes_per_s / 1e9:,.1f} GB/s")
    table.add_row("matrix products", f"{card.flop_per_s / 1e12:,.2f} TFLOP/s")
    return table


def checks_table(checks: Iterable[Check]) -> Table:
    table = Table("check", "passed", "seen", box=None)
    for check in checks:
        table.add_row(check.name, "yes" if check.passed else "NO", check.seen)
    return table


def steps_table(like: str, times: Iterable[StepTime]) -> Table:
    table = Table(
        f"{like}: step", "rows", "tokens", "ms", "floor", "of floor", "GB/s", "TFLOP/s", box=None
    )
    for time in times:
        table.add_row(
            time.kind,
            str(time.num_rows),
            f"{time.num_tokens:,}",
            f"{1000 * time.step_s:.2f}",
            f"{1000 * time.floor_s:.2f}",
            f"{time.of_floor:.0%}",
            f"{time.moved_bytes_per_s / 1e9:,.0f}",
            f"{time.flop_per_s / 1e12:,.2f}",
        )
    return table


def cold_start_table(*starts: ColdStart) -> Table:
    """Show a column for each state of the page cache, with the phases of the load at the end."""
    table = Table("from disk to a first token", *(start.state for start in starts), box=None)
    alone = (f"{start.num_bytes / start.read_s / 1e9:.2f}" for start in starts)
    table.add_row("reading the files alone, GB/s", *alone)
    whole = (f"{start.num_bytes / start.first_token_s / 1e9:.2f}" for start in starts)
    table.add_row("until the first token, GB/s", *whole)
    table.add_row("of reading alone", *(f"{start.of_read_rate:.0%}" for start in starts))
    table.add_row("until the first token, s", *(f"{start.first_token_s:.2f}" for start in starts))
    reports = [start.report.to_log() for start in starts]
    for name in reports[0]:
        table.add_row(name, *(number_or_text(report[name]) for report in reports))
    return table


def number_or_text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def throughput_table(tokens_per_s: float, of_generate: float) -> Table:
    table = Table("mixed workload", "tokens/s", box=None)
    table.add_row("falconer", f"{tokens_per_s:,.1f}")
    table.add_row("generate, batches of 32", f"{of_generate:,.1f}")
    table.add_row("falconer is faster by", f"{tokens_per_s / of_generate:.2f}x")
    return table


def profile_table(profile: Profile) -> Table:
    """Show shares of wall time; on a GPU the rest to 100 % is idle time."""
    table = Table("kernel", "calls", "ms", "share", box=None)
    for kernel in profile.kernels:
        table.add_row(
            kernel.name[:70],
            f"{kernel.calls:,}",
            f"{1000 * kernel.seconds:.2f}",
            f"{kernel.seconds / profile.wall_s:.1%}",
        )
    idle = "unknown on a CPU" if profile.idle_share is None else f"{profile.idle_share:.1%}"
    table.add_row("device idle", "", "", idle)
    return table


def compared_table(like: str, times: Iterable[StepTime], layers: DecoderLayers) -> Table:
    """Compare the decoding steps of a model with prediction and aim."""
    columns = ("by", "ms", "predicted", "of floor", "aim")
    table = Table(f"{like}, layers {layers}: rows", *columns, box=None)
    predictions = {"decode": DECODE_MS, "graph": GRAPH_MS}
    for time in times:
        if time.kind in predictions:
            predicted = predictions[time.kind].get((layers, like, time.num_rows))
            aim = AIMS.get((like, time.num_rows))
            table.add_row(
                str(time.num_rows),
                "launches" if time.kind == "decode" else "graph",
                f"{1000 * time.step_s:.2f}",
                "" if predicted is None else f"{predicted:.1f}",
                f"{time.of_floor:.0%}",
                "" if aim is None else f"{aim:.0%}",
            )
    return table
