"""Where the engine's time goes: its phases, the operators of the forward pass, and its floor.

Knows the insides of engine and runners, and wraps them while it looks.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from bench.engine.dense_floor import DenseLayers
from bench.engine.openvino_operators import read_shares
from bench.engine.replay import replay
from bench.engine.stopwatch import Stopwatch, replaced
from worker.engine import Engine, Output, Request
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.scheduling.step_plan import StepPlan
from worker.engine.text.text_stream import TextStream
from worker.model.layers.attention import PagedAttention
from worker.model.layers.flash_attention import FlashAttention

# Phases of a step.
SCHEDULING = "scheduling"
DENSE = "dense layers"
ATTENTION = "attention"
FORWARD = "rest of the forward pass"
HEAD = "head (logits)"
SAMPLING = "sampling"
DETOKENIZATION = "detokenization"
OUTPUT = "rest of the step"
GRAPH = "compiled graph"  # while it runs; in the end its operators have its time
PHASES = (DENSE, ATTENTION, FORWARD, HEAD, SAMPLING, SCHEDULING, DETOKENIZATION, OUTPUT)

DENSE_LAYERS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


class StepBreakdown:
    """Seconds of a new engine's steps by phase; after each step its dense layers run alone.

    In turn with the steps, so that a drifting machine weighs on both alike.
    """

    def __init__(self, engine: Engine, dense_layers: DenseLayers) -> None:
        self._engine = engine
        self._dense_layers = dense_layers
        self._watch = Stopwatch()
        self._num_tokens = 0  # of the last step
        self._num_logit_rows = 0
        self._num_steps = 0
        self._dense_alone_s = 0.0

    def measure(self, requests: list[Request]) -> dict[str, Any]:
        """Run all of the requests; seconds are sums over all steps."""
        with self._phases_watched(), self._steps_followed():
            replay(self._engine, requests, len(requests))
        if not isinstance(self._engine.runner, ModelRunner):
            self._book_operators()
        engine_s = sum(self._watch.seconds.values())
        return {
            "steps": self._num_steps,
            "engine_s": engine_s,
            "dense_alone_s": self._dense_alone_s,
            "dense_alone_over_engine": self._dense_alone_s / engine_s,
            "phases_s": {phase: self._watch.seconds[phase] for phase in PHASES},
        }

    @contextmanager
    def _phases_watched(self) -> Iterator[None]:
        engine = self._engine
        runner: Any = engine.runner
        places: list[tuple[Any, str, str]] = [
            (engine, "step", OUTPUT),
            (engine.scheduler, "schedule", SCHEDULING),
            (engine.scheduler, "record_computed", SCHEDULING),
            (engine.scheduler, "finish_group", SCHEDULING),
            (runner, "forward", FORWARD),
            (engine, "_compute", SAMPLING),  # the forward pass inside it counts for itself
            (TextStream, "push", DETOKENIZATION),
        ]
        if isinstance(runner, ModelRunner):
            places += torch_places(runner)
        else:
            places.append((runner.infer_request, "infer", GRAPH))
        with ExitStack() as stack:
            for owner, name, phase in places:
                stack.enter_context(self._watch.watching(owner, name, phase))
            yield

    @contextmanager
    def _steps_followed(self) -> Iterator[None]:
        step, forward = self._engine.step, self._engine.runner.forward

        def step_and_follow() -> list[Output]:
            outputs = step()
            self._follow()
            return outputs

        def forward_and_note(plan: StepPlan) -> torch.Tensor:
            logits = forward(plan)
            self._num_tokens, self._num_logit_rows = plan.num_tokens, len(logits)
            return logits

        with (
            replaced(self._engine, "step", step_and_follow),
            replaced(self._engine.runner, "forward", forward_and_note),
        ):
            yield

    def _follow(self) -> None:
        self._num_steps += 1
        with self._watch.paused():
            started = time.perf_counter()
            self._dense_layers(self._num_tokens, self._num_logit_rows)
            self._dense_alone_s += time.perf_counter() - started

    def _book_operators(self) -> None:
        """Tell the parts of a compiled forward pass apart by the runtime's own counters."""
        runner: Any = self._engine.runner
        shares, graph_s = read_shares(runner.infer_request), self._watch.seconds[GRAPH]
        self._watch.move(GRAPH, DENSE, shares.dense_layers * graph_s)
        self._watch.move(GRAPH, ATTENTION, shares.attention * graph_s)
        self._watch.move(GRAPH, HEAD, shares.head * graph_s)
        self._watch.move(GRAPH, FORWARD, self._watch.seconds[GRAPH])


def torch_places(runner: ModelRunner) -> list[tuple[Any, str, str]]:
    """Where the parts of torch's forward pass can be told apart: owner, method, phase."""
    model = runner.model
    layers = [
        (module, "forward", DENSE)
        for name, module in model.transformer.named_modules()
        if name.rpartition(".")[2] in DENSE_LAYERS
    ]
    attention = [(kind, "__call__", ATTENTION) for kind in (PagedAttention, FlashAttention)]
    return [*attention, (model.lm_head, "forward", HEAD), *layers]
