"""What weights in 8 bits change: how often another token comes first, and the perplexity of a text.

    python -m bench.quantization --model tiny --quantization int8 --quantization int8-weight-only

Compares with the same model, dtype and executor without quantization. A CPU, which has no fp8,
measures the emulated arithmetic of its layers.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.emulated_float8 import EmulatedFloat8Linear
from bench.engine import EngineBench
from bench.foresight import Foresight, foretell
from bench.report import check_output
from shared.errors import FalconerError
from shared.request.prompt import PromptEncoder
from worker.engine import Engine, Quantization
from worker.model.layers.packed_linear import replace_linears
from worker.model_loading import choose_device

TEXT = Path(__file__).parent.parent / "training" / "heldout.txt"
WHOLE = "none"
FLOAT8_DTYPE = "bfloat16"  # the only one in which a worker has fp8


def compare_quantizations(
    quantization: Annotated[list[str], typer.Option(help="int8, int8-weight-only or fp8.")],
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")] = "tiny",
    text: Annotated[Path, typer.Option(help="One text a line; the tiny model knows none.")] = TEXT,
    num_texts: Annotated[int, typer.Option(min=1, help="Lines to read.")] = 200,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    executor: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of a step.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write figures.")] = None,
) -> None:
    check_output(json_out)
    lines = read_lines(text, num_texts)
    whole = EngineBench(
        model,
        dtype=choose_dtype(dtype, quantization),
        device=device,
        executor=executor,
        threads=threads,
    )
    benches = [whole, *(replace(whole, quantization=name) for name in quantization)]
    foresights = {title(bench): _foretell(bench, lines) for bench in benches}
    Console().print(table(foresights))
    if json_out is not None:
        json_out.write_text(json.dumps(figures(foresights), indent=1) + "\n")


def choose_dtype(dtype: str, quantization: list[str]) -> str:
    """`auto` is what fp8 takes where fp8 is among the kinds. Raises FalconerError for another."""
    if Quantization.FP8 not in quantization:
        return dtype
    if dtype not in ("auto", FLOAT8_DTYPE):
        raise FalconerError(f"--quantization fp8 needs --dtype {FLOAT8_DTYPE}, not {dtype}")
    return FLOAT8_DTYPE


def is_emulated(bench: EngineBench) -> bool:
    """Whether this is fp8 on a CPU, where a worker refuses it."""
    return bench.quantization == Quantization.FP8 and choose_device(bench.device) == "cpu"


def title(bench: EngineBench) -> str:
    name = bench.quantization or WHOLE
    return f"{name} (emulated)" if is_emulated(bench) else name


def read_lines(text: Path, count: int) -> list[str]:
    """The first `count` lines that hold something. Raises FalconerError when there is none."""
    if not text.is_file():
        raise FalconerError(f"--text {text}: no such file")
    lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise FalconerError(f"--text {text}: holds no text")
    return lines[:count]


def figures(foresights: dict[str, Foresight]) -> dict[str, dict[str, float]]:
    """By quantization: tokens that were foretold, top-1 agreement, perplexity."""
    whole = foresights[WHOLE]
    return {
        name: {
            "tokens": len(foresight.nats),
            "top1_agreement": foresight.agreement(whole),
            "perplexity": foresight.perplexity,
        }
        for name, foresight in foresights.items()
    }


def table(foresights: dict[str, Foresight]) -> Table:
    shown = Table("quantization", "tokens", "same first choice", "perplexity", box=None)
    for name, row in figures(foresights).items():
        tokens, agreement = f"{row['tokens']:,}", f"{row['top1_agreement']:.2%}"
        shown.add_row(name, tokens, agreement, f"{row['perplexity']:.4f}")
    return shown


def _foretell(bench: EngineBench, lines: list[str]) -> Foresight:
    """Each line with the model's end-of-text token, cut where it outgrows context or cache."""
    engine, encoder = _load_emulated(bench) if is_emulated(bench) else bench.load()
    longest = min(encoder.card.context_length, engine.total_kv_tokens)
    end = encoder.card.eos_token_ids[:1]
    texts = [[*engine.tokenizer.encode(line).ids, *end][:longest] for line in lines]
    return foretell(engine, texts)


def _load_emulated(bench: EngineBench) -> tuple[Engine, PromptEncoder]:
    """The whole engine with other layers where a worker has those of fp8: all but the head."""
    engine, encoder = replace(bench, quantization=None).load()
    runner: Any = engine._runner
    replace_linears(runner._model.transformer, EmulatedFloat8Linear)
    return engine, encoder


if __name__ == "__main__":
    typer.run(compare_quantizations)
