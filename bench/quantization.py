"""What weights in 8 bits change: how often another token comes first, and the perplexity of a text.

    python -m bench.quantization --model tiny --quantization int8 --quantization int8-weight-only

Compares with the same model, dtype and executor without quantization.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.engine import EngineBench
from bench.foresight import Foresight, foretell
from bench.report import check_output
from shared.errors import FalconerError

TEXT = Path(__file__).parent.parent / "training" / "heldout.txt"
WHOLE = "none"


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
    foresights = {
        name: _foretell(
            EngineBench(
                model,
                dtype=dtype,
                device=device,
                executor=executor,
                quantization=None if name == WHOLE else name,
                threads=threads,
            ),
            lines,
        )
        for name in [WHOLE, *quantization]
    }
    Console().print(table(foresights))
    if json_out is not None:
        json_out.write_text(json.dumps(figures(foresights), indent=1) + "\n")


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
    engine, encoder = bench.load()
    longest = min(encoder.card.context_length, engine.total_kv_tokens)
    end = encoder.card.eos_token_ids[:1]
    texts = [[*engine.tokenizer.encode(line).ids, *end][:longest] for line in lines]
    return foretell(engine, texts)


if __name__ == "__main__":
    typer.run(compare_quantizations)
