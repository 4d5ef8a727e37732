"""Measure what quantized weights change: top-1 agreement and the perplexity of a text.

    python -m bench.quality.quantization --model tiny --quantization int8 --quantization fp8

The reference is the same model, dtype and executor without quantization. CPUs have no fp8: this
command emulates its arithmetic there.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from bench.engine.engine_bench import EngineBench
from bench.quality.perplexity import TextScores, score_texts
from bench.report import check_output
from shared.errors import FalconerError
from shared.request.prompt import PromptEncoder
from worker.engine import Engine, Quantization
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.checkpoint.weights import load_model
from worker.model.layers.packed_linear import replace_linears
from worker.model_loading import choose_device, find_checkpoint

TEXT = Path(__file__).parents[2] / "tools" / "tiny_falcon" / "heldout.txt"
WHOLE = "none"
_FLOAT8 = torch.float8_e4m3fn
_FLOAT8_MAX = torch.finfo(_FLOAT8).max
_TINY = 1e-12  # as in `Float8Linear`, prevents nan in a row of zeros
FLOAT8_DTYPE = "bfloat16"  # the only dtype of fp8 in a worker


def compare_quantizations(
    quantization: Annotated[list[str], typer.Option(help="int8, int8-weight-only, int4, fp8.")],
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")] = "tiny",
    text: Annotated[
        Path,
        typer.Option(help="File with one text per line; by default unknown to the tiny model."),
    ] = TEXT,
    num_texts: Annotated[int, typer.Option(min=1, help="Number of lines to read.")] = 200,
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
    scores = {title(bench): _score_texts(bench, lines) for bench in benches}
    Console().print(table(scores))
    if json_out is not None:
        json_out.write_text(json.dumps(figures(scores), indent=1) + "\n")


def choose_dtype(dtype: str, quantization: list[str]) -> str:
    """Return the dtype; `auto` is fp8's dtype if fp8 is measured. Raises FalconerError."""
    if Quantization.FP8 not in quantization:
        return dtype
    if dtype not in ("auto", FLOAT8_DTYPE):
        raise FalconerError(f"--quantization fp8 needs --dtype {FLOAT8_DTYPE}, not {dtype}")
    return FLOAT8_DTYPE


def is_emulated(bench: EngineBench) -> bool:
    """Return whether this is fp8 on a CPU, which a worker refuses."""
    return bench.quantization == Quantization.FP8 and choose_device(bench.device) == "cpu"


def title(bench: EngineBench) -> str:
    name = bench.quantization or WHOLE
    return f"{name} (emulated)" if is_emulated(bench) else name


def read_lines(text: Path, count: int) -> list[str]:
    """Return the first `count` lines with text. Raises FalconerError if the file has none."""
    if not text.is_file():
        raise FalconerError(f"--text {text}: no such file")
    lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise FalconerError(f"--text {text}: has no text")
    return lines[:count]


def figures(scores: dict[str, TextScores]) -> dict[str, dict[str, float]]:
    """Return number of tokens, top-1 agreement and perplexity, by quantization."""
    whole = scores[WHOLE]
    return {
        name: {
            "tokens": len(scores.nats),
            "top1_agreement": scores.agreement(whole),
            "perplexity": scores.perplexity,
        }
        for name, scores in scores.items()
    }


def table(scores: dict[str, TextScores]) -> Table:
    shown = Table("quantization", "tokens", "same first choice", "perplexity", box=None)
    for name, row in figures(scores).items():
        tokens, agreement = f"{row['tokens']:,}", f"{row['top1_agreement']:.2%}"
        shown.add_row(name, tokens, agreement, f"{row['perplexity']:.4f}")
    return shown


def _score_texts(bench: EngineBench, lines: list[str]) -> TextScores:
    """Score each line with the end-of-text token, cut to the context and the KV cache."""
    engine, encoder = _load_emulated(bench) if is_emulated(bench) else bench.load()
    longest = min(encoder.card.context_length, engine.total_kv_tokens)
    end = encoder.card.eos_token_ids[:1]
    texts = [[*engine.tokenizer.encode(line).ids, *end][:longest] for line in lines]
    return score_texts(engine, texts)


def _load_emulated(bench: EngineBench) -> tuple[Engine, PromptEncoder]:
    """Load the engine with a network whose layers are fp8 in a worker: all but the head.

    The network is loaded apart from the engine, which packs weights and drops the originals.
    """
    engine, encoder = replace(bench, quantization=None, executor="torch").load()
    source = str(find_checkpoint(bench.model))
    model = load_model(source, dtype=torch.bfloat16, device=torch.device("cpu"))
    replace_linears(model.transformer, EmulatedFloat8Linear)
    engine.runner = ModelRunner.with_cache(
        model, num_blocks=engine.runner.num_blocks, block_size=engine.config.block_size
    )
    return engine, encoder


class EmulatedFloat8Linear(nn.Module):
    """`Float8Linear` without its kernel, which may accumulate with less precision than float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = round_rows(linear.weight.detach())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product = functional.linear(round_rows(input), self._weight).to(input.dtype)
        return product if self.bias is None else product + self.bias


def round_rows(values: torch.Tensor) -> torch.Tensor:
    """Return the values rounded to e4m3 with a scale per row, in float32.

    As in torchao, the scale is computed in the dtype of the values.
    """
    scale = (values.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY) / _FLOAT8_MAX).float()
    rounded = (values.float() / scale).clamp(-_FLOAT8_MAX, _FLOAT8_MAX).to(_FLOAT8)
    return rounded.float() * scale


if __name__ == "__main__":
    typer.run(compare_quantizations)
