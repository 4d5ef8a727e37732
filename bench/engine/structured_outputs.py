"""Measure the cost of structured outputs: a step of rows with a grammar, and without.

`python -m bench.engine.structured_outputs --model DIR`. Both kinds alternate, so that a machine
whose speed drifts affects both alike.
"""

import json
import statistics
from dataclasses import replace
from typing import Annotated, Any

import typer

from bench.engine.engine_bench import EngineBench, settings_of
from bench.engine.internals import median_decode_step_s
from bench.workloads import FIRST_WORD_ID
from shared.request.structured_outputs import StructuredOutputs
from worker.engine import Engine, Request, SamplingParams

# None of them ends before the last token of a request.
STRUCTURES: dict[str, dict[str, Any]] = {
    "schema": {
        "json": {
            "type": "array",
            "minItems": 400,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 40},
                    "age": {"type": "integer", "minimum": 0, "maximum": 150},
                    "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
                },
                "required": ["name", "age", "tags"],
                "additionalProperties": False,
            },
        }
    },
    "string": {"json": {"type": "string", "minLength": 4000}},
    "regex": {"regex": "([a-z]+ ){4000}"},
}
PROMPT_TOKENS = 32


def make_requests(engine: Engine, grammar: str | None, *, rows: int, num_new: int) -> list[Request]:
    vocab_size = engine.model_config.vocab_size
    params = SamplingParams(
        max_new_tokens=num_new,
        do_sample=True,
        top_k=50,
        top_p=0.95,
        eos_token_ids=() if grammar is None else (vocab_size - 1,),
        grammar=grammar,
    )
    return [
        Request(
            request_id=str(row),
            prompt_token_ids=[FIRST_WORD_ID + (row + i) % 97 for i in range(PROMPT_TOKENS)],
            params=replace(params, seed=row),
        )
        for row in range(rows)
    ]


def compare(
    engine: Engine, grammar: str, *, rows: int, num_new: int, rounds: int
) -> dict[str, Any]:
    """Return the median seconds of a step of each kind, and the ratio of each round."""
    steps: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * rounds):
        is_structured = number % 2 == 1
        requests = make_requests(
            engine, grammar if is_structured else None, rows=rows, num_new=num_new
        )
        steps[is_structured].append(median_decode_step_s(engine, requests))
    ratios = [s / p for s, p in zip(steps[True], steps[False], strict=True)]
    return {
        "plain_step_s": statistics.median(steps[False]),
        "structured_step_s": statistics.median(steps[True]),
        "structured_over_plain": statistics.median(ratios),
        "ratios": ratios,
    }


def measure(
    model: Annotated[str, typer.Option(help="A folder, a hub id, or `tiny`.")] = "tiny",
    rows: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 32,
    new: Annotated[int, typer.Option(min=4, help="New tokens per request.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a step.")] = 2,
    executor: Annotated[str, typer.Option(help="auto, torch or openvino.")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Figures are medians over the rounds.")] = 5,
) -> None:
    bench = EngineBench(model, max_rows=rows, executor=executor, threads=threads)
    engine, _ = bench.load()
    figures: dict[str, Any] = {"variant": settings_of(engine)["variant"]}
    for name, structure in STRUCTURES.items():
        grammar = StructuredOutputs.model_validate(structure).to_grammar()
        engine.grammars.compile(grammar)
        figures[name] = compare(engine, grammar, rows=rows, num_new=new, rounds=rounds)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(measure)
