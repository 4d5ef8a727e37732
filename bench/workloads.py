"""Workloads: files of requests, and the random requests that the engine is measured with.

A file has one JSON object per line: a prompt and its `generate_kwargs`. Random workloads have drawn
lengths and ignore eos. The same seed gives every engine the same requests.
`python -m bench.workloads FOLDER` writes them as files.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import FalconerError

FIRST_WORD_ID = 12  # lower ids are special tokens of Falcon's tokenizer
SHORTEST, LONGEST = 16, 256  # tokens of a prompt, and of an output
GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLING: dict[str, Any] = {"do_sample": True, "top_k": 50, "top_p": 0.95}

# Different parameters for each row of a batch. All rows have one sequence of one length.
DIFFERENT: tuple[dict[str, Any], ...] = (
    GREEDY,
    {**GREEDY, "repetition_penalty": 1.2},
    {**GREEDY, "no_repeat_ngram_size": 3},
    {**GREEDY, "encoder_no_repeat_ngram_size": 2},
    {**GREEDY, "bad_words_ids": [[20], [21, 22], [23, 24, 25]]},
    {**GREEDY, "suppress_tokens": [30, 31, 32]},
    {**GREEDY, "begin_suppress_tokens": [33, 34]},
    {**GREEDY, "sequence_bias": [[[40], 2.0], [[41, 42], -3.0]]},
    {**GREEDY, "forced_eos_token_id": 11},
    {**GREEDY, "renormalize_logits": True},
    {**GREEDY, "remove_invalid_values": True},
    {**GREEDY, "output_scores": True},
    {**GREEDY, "repetition_penalty": 0.9, "no_repeat_ngram_size": 2, "suppress_tokens": [50]},
    {"top_k": 10},
    {"top_k": 0},
    {"top_k": 50, "top_p": 0.95},
    {"top_k": 0, "top_p": 0.9},
    {"top_k": 0, "typical_p": 0.9},
    {"top_k": 0, "min_p": 0.05},
    {"top_k": 0, "epsilon_cutoff": 1e-5},
    {"top_k": 0, "eta_cutoff": 1e-5},
    {"top_k": 100, "temperature": 0.7},
    {"top_k": 20, "temperature": 1.5},
    {"top_k": 40, "typical_p": 0.8},
    {"top_k": 30, "min_p": 0.02, "temperature": 0.9},
    {"top_k": 50, "repetition_penalty": 1.1},
    {"top_k": 50, "no_repeat_ngram_size": 3},
    {"top_k": 50, "bad_words_ids": [[60, 61], [62]]},
    {"top_k": 50, "sequence_bias": [[[63], -1.0]]},
    {"top_k": 10, "top_logprobs": 5},
    {"top_k": 25, "top_p": 0.8, "temperature": 0.8, "repetition_penalty": 1.3},
    {"top_k": 50, "top_p": 0.9, "typical_p": 0.95, "min_p": 0.01, "renormalize_logits": True},
)


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A request of a workload. Exactly one of `prompt` and `prompt_ids` is set."""

    prompt: str | None = None
    prompt_ids: list[int] | None = None
    generate_kwargs: dict[str, Any] = field(default_factory=dict)


def read_workload(path: Path) -> list[WorkItem]:
    """Parse a file of JSON lines. Raises FalconerError with the number of the first bad line."""
    if not path.is_file():
        raise FalconerError(f"--requests {path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise FalconerError(f"--requests {path}: not UTF-8 text") from error
    lines = enumerate(text.split("\n"), start=1)  # splitlines() would split JSON strings
    items = [_parse(path, number, line) for number, line in lines if line.strip()]
    if not items:
        raise FalconerError(f"--requests {path}: has no request")
    return items


def write_workload(path: Path, items: Sequence[WorkItem]) -> None:
    """Write a file for `read_workload`."""
    bodies = ({k: v for k, v in asdict(item).items() if v is not None} for item in items)
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies), encoding="utf-8")


def _parse(path: Path, number: int, line: str) -> WorkItem:
    where = f"--requests {path}, line {number}"
    try:
        item = WorkItem(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise FalconerError(
            f"{where}: must be an object of prompt | prompt_ids, generate_kwargs"
        ) from error
    if (item.prompt is None) == (item.prompt_ids is None):
        raise FalconerError(f"{where}: exactly one of prompt and prompt_ids must be given")
    return item


def drawn_lengths(
    generate_kwargs: dict[str, Any], *, vocab_size: int, num_requests: int = 64, seed: int = 0
) -> list[WorkItem]:
    """Return requests with random prompts; prompts and outputs have 16 to 256 tokens."""
    draw = random.Random(seed)
    lengths = [
        (draw.randint(SHORTEST, LONGEST), draw.randint(SHORTEST, LONGEST))
        for _ in range(num_requests)
    ]
    return [_item(draw, vocab_size, prompt, output, generate_kwargs) for prompt, output in lengths]


def read_vocab_size(checkpoint: Path) -> int:
    """Return the number of token ids of the model in a folder."""
    config = json.loads((checkpoint / "config.json").read_text())
    size: int = config["vocab_size"]
    return size


def equal_lengths(
    rows: tuple[dict[str, Any], ...], *, vocab_size: int, num_prompt: int = 32, num_new: int = 48
) -> list[WorkItem]:
    """Return one request per row's parameters, equally long, so that all steps have all rows."""
    draw = random.Random(0)
    return [_item(draw, vocab_size, num_prompt, num_new, kwargs) for kwargs in rows]


def representative(items: list[WorkItem], count: int) -> list[WorkItem]:
    """Return `count` requests in order with the same mix of output lengths, for slow contenders."""
    by_length = sorted(range(len(items)), key=lambda i: items[i].generate_kwargs["max_new_tokens"])
    count = min(count, len(items))
    chosen = [by_length[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
    return [items[i] for i in sorted(chosen)]


def _item(
    draw: random.Random, vocab_size: int, num_prompt: int, num_new: int, kwargs: dict[str, Any]
) -> WorkItem:
    prompt_ids = [draw.randrange(FIRST_WORD_ID, vocab_size) for _ in range(num_prompt)]
    fixed = {"max_new_tokens": num_new, "eos_token_id": None, "seed": draw.randrange(2**31)}
    return WorkItem(prompt_ids=prompt_ids, generate_kwargs={**kwargs, **fixed})


def write_workloads(folder: Path, *, vocab_size: int, requests: int) -> None:
    """Write greedy.jsonl and sampling.jsonl (drawn lengths), equal.jsonl and different.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kwargs in (("greedy", GREEDY), ("sampling", SAMPLING)):
        items = drawn_lengths(kwargs, vocab_size=vocab_size, num_requests=requests)
        write_workload(folder / f"{name}.jsonl", items)
    equal = (SAMPLING,) * len(DIFFERENT)
    for name, rows in (("equal", equal), ("different", DIFFERENT)):
        write_workload(folder / f"{name}.jsonl", equal_lengths(rows, vocab_size=vocab_size))


def main() -> None:
    """Parse flags without typer, which the environments of peers may lack."""
    parser = argparse.ArgumentParser(description=write_workloads.__doc__)
    parser.add_argument("folder", type=Path, help="where to write the files")
    parser.add_argument("--vocab-size", type=int, default=65024, help="of the model")
    parser.add_argument("--requests", type=int, default=64, help="in files of random lengths")
    write_workloads(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
