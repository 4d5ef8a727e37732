"""Play traffic on a pretended GPU and on the CPU; write tokens and counts to a file as JSON.

Runs in a process of its own, which `load_guard` changes for good:
`python -m tests.worker.engine.pretended_cuda.record FOLDER`.
"""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tests.worker.engine.pretended_cuda.device import HostWork, pretended_cuda
from tests.worker.engine.pretended_cuda.guard import compile_guard, load_guard
from tests.worker.engine.pretended_cuda.traffic import (
    FUSED,
    PLAYED,
    STYLES,
    load,
    play,
    play_on,
)
from worker.engine import Engine, EngineConfig, Request, SamplingParams
from worker.engine.execution.static_decoding import Call, StaticDecoder, run_eagerly
from worker.engine.execution.torch_runner import ModelRunner
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint

RECORD = "record.json"
NUM_ROWS = 8
CONFIG = EngineConfig(max_rows=NUM_ROWS, num_blocks=64, max_chunk_tokens=64)
LAYERS = (2, 4)
VOCAB_SIZE = 8192  # large enough that top_k 50 reads few columns, as with 65,024
STEPS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top_k": {"do_sample": True, "top_k": 50},
    "top_k_top_p": {"do_sample": True, "top_k": 50, "top_p": 0.95},
    "logprobs": {"logprobs": True, "top_logprobs": 5},
    "sampled_logprobs": {"do_sample": True, "top_k": 50, "logprobs": True, "top_logprobs": 5},
}
STATIC_DTYPE = "float32"  # padding and room for longer contexts may change a rounding
STATIC_KINDS = ("greedy", "top_k", "top_k_top_p", "logprobs")


class LogCapture(logging.Handler):
    """The warnings of the package while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())

    def __enter__(self) -> "LogCapture":
        logging.getLogger("worker").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("worker").removeHandler(self)


def decode_step(checkpoint: Path, params: dict[str, Any]) -> HostWork:
    """Return the work of one step in which all rows decode."""
    with pretended_cuda() as cuda:
        engine = load(checkpoint, "cuda", "bfloat16", CONFIG)
        start_decoding(engine, params)
        cuda.work = HostWork()
        engine.step()
        return cuda.work


def start_decoding(engine: Engine, params: dict[str, Any]) -> None:
    for i in range(NUM_ROWS):
        own = SamplingParams(max_new_tokens=16, seed=i, **params)
        engine.add(Request(request_id=str(i), prompt_token_ids=[12 + i, 20, 30 + i], params=own))
    while engine.last_step.num_tokens != NUM_ROWS:
        engine.step()


def static_step(checkpoint: Path, params: dict[str, Any]) -> dict[str, Any]:
    """Return the work of the host in a step of fixed shapes, and the work that a graph replays."""
    with pretended_cuda() as cuda:
        captured = HostWork()

        def capture(call: Call) -> Call:
            def replay() -> None:
                host, cuda.work = cuda.work, captured
                call()
                cuda.work = host

            return replay

        engine = load(checkpoint, "cuda", "bfloat16", CONFIG)
        assert isinstance(engine.runner, ModelRunner)
        engine.decoder = StaticDecoder(engine.runner, NUM_ROWS)
        list(engine.decoder.add_buckets(capture))
        start_decoding(engine, params)
        cuda.work = HostWork()
        captured = HostWork()
        engine.step()
        return {"host": asdict(cuda.work), "captured": asdict(captured)}


def static_tokens(checkpoint: Path) -> dict[str, list[int]]:
    """Return the tokens of all kinds of parameters where steps that fit have fixed shapes."""
    with pretended_cuda():
        engine = load(checkpoint, "cuda", STATIC_DTYPE)
        assert isinstance(engine.runner, ModelRunner)
        engine.decoder = StaticDecoder(engine.runner, engine.config.max_rows)
        list(engine.decoder.add_buckets(run_eagerly))
        return play(engine)


def failed_capture(checkpoint: Path) -> list[str]:
    """Return the warnings of a worker that cannot capture a graph; its engine decodes."""
    with pretended_cuda(), LogCapture() as log:
        engine = load(checkpoint, "cuda", "bfloat16", CONFIG)
        start_decoding(engine, {})
        assert engine.decoder is None
        return log.warnings


def measure(folder: Path) -> dict[str, Any]:
    """Return the work of decode steps: by kind, and by style and number of layers."""
    networks = {
        style: {
            n: write_random_checkpoint(
                folder / f"{style}-{n}", like=style, num_layers=n, vocab_size=VOCAB_SIZE
            )
            for n in LAYERS
        }
        for style in STYLES
    }
    small = networks["7b"][LAYERS[0]]
    return {
        "static": {kind: static_step(small, STEPS[kind]) for kind in STATIC_KINDS},
        "failed_capture": failed_capture(small),
        "steps": {kind: asdict(decode_step(small, params)) for kind, params in STEPS.items()},
        "layers": {
            style: {n: asdict(decode_step(network, {})) for n, network in by_depth.items()}
            for style, by_depth in networks.items()
        },
    }


def refusals() -> dict[str, str]:
    """Return the errors of what a GPU cannot do, by name; what was computed is absent."""
    mistakes = {
        "mix devices": lambda: torch.ones(2, device="cuda") + torch.ones(2),
        "read as numpy": lambda: torch.ones(2, device="cuda").numpy(),
        "pin for another GPU": lambda: torch.empty(2, pin_memory=True),
    }
    errors = {}
    with pretended_cuda():
        for name, make in mistakes.items():
            try:
                make()
            except (RuntimeError, TypeError) as error:
                errors[name] = str(error)
    return errors


def compare(folder: Path) -> dict[str, Any]:
    """Return the tokens of every style, layer and dtype, on the CPU and on the pretended GPU."""
    tokens = {}
    for style in STYLES:
        checkpoint = write_random_checkpoint(folder / style, like=style)
        for layers, dtype in PLAYED:
            tokens[f"{style} {layers} {dtype}"] = {
                device: play_on(checkpoint, device, layers, dtype) for device in ("cpu", "cuda")
            }
        tokens[f"{style} {FUSED} {STATIC_DTYPE}"]["static"] = static_tokens(checkpoint)
    return tokens


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    load_guard(compile_guard(folder))
    result = {**measure(folder), "tokens": compare(folder), "refusals": refusals()}
    (folder / RECORD).write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
