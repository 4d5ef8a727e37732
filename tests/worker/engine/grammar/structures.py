"""Requests with a grammar on the bundled model, and their results."""

from dataclasses import replace
from typing import Any

from shared.request.structured_outputs import StructuredOutputs
from tests.worker.engine.fake_requests import run_to_end, tokens
from worker.engine import Engine, EngineConfig, Executor, Request, SamplingParams
from worker.model.checkpoint.tiny import bundled_checkpoint

EOS = 11
CONFIG = EngineConfig(max_rows=32, num_blocks=600, block_size=16)
SPELLED = ("zero", "one", "two", "three", "äöü\n", 'quo"te', "\U0001f600")
SUM = r"""
start: term ("+" term){0,6}
term: NUMBER | "(" NUMBER ("+" NUMBER){0,2} ")"
NUMBER: /[0-9]{1,3}/
"""
GBNF = 'root ::= item{2,4}\nitem ::= "<" [a-z]{1,9} ">"'
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
STRUCTURES: list[dict[str, Any]] = [
    {"regex": r"[A-Z][a-z]{2,9}( [0-9]{4})?"},
    {"regex": r"(\+49|0)[1-9]\d{4,8}"},
    {"choice": list(SPELLED)},
    {"grammar": SUM},
    {"grammar": GBNF},
    {"json": SCHEMA},
    {"json": SCHEMA, "disable_any_whitespace": True},
]


def grammar(**structure: Any) -> str:
    return StructuredOutputs.model_validate(structure).to_grammar()


def load(config: EngineConfig, executor: Executor = Executor.TORCH) -> Engine:
    """Load the bundled model in float32: a sample changes only if its logits differ visibly."""
    return Engine.from_pretrained(
        str(bundled_checkpoint()), dtype="float32", config=config, executor=executor
    )


def structured(engine: Engine, number: int, **params: Any) -> Request:
    """Return a request with one of the structures in turn, sampled unless `params` differ."""
    structure = STRUCTURES[number % len(STRUCTURES)]
    sampled: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "seed": number}
    return Request(
        request_id=f"structured {number}",
        prompt_token_ids=engine.tokenizer.encode(f"Once upon a time {number}").ids,
        params=SamplingParams(
            **{"max_new_tokens": 150, "eos_token_ids": (EOS,)}
            | {"grammar": grammar(**structure)}
            | sampled
            | params
        ),
    )


def plain(engine: Engine, number: int) -> Request:
    request = structured(engine, number, grammar=None, max_new_tokens=30)
    return replace(request, request_id=f"plain {number}")


def run(engine: Engine, requests: list[Request]) -> dict[str, list[list[int]]]:
    """Return the token ids of each sequence by request."""
    for request in requests:
        engine.add(request)
    outputs = run_to_end(engine)
    return {
        request.request_id: [
            [output.token_id for output in tokens(outputs[request.request_id], index)]
            for index in range(request.params.num_return_sequences)
        ]
        for request in requests
    }


def text_of(engine: Engine, token_ids: list[int]) -> str:
    assert token_ids[-1] == EOS, engine.tokenizer.decode(token_ids)
    return str(engine.tokenizer.decode(token_ids[:-1]))
