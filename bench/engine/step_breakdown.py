"""Divide the time of the engine's steps into phases and compare it with the dense floor.

Wraps methods of the engine and the runner during the measurement.
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
from worker.engine.text.sequence_text import SequenceText
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
GRAPH = "compiled graph"  # divided among its operators at the end
PHASES = (DENSE, ATTENTION, FORWARD, HEAD, SAMPLING, SCHEDULING, DETOKENIZATION, OUTPUT)

DENSE_LAYERS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


class StepBreakdown:
    """Measure a new engine's steps by phase, and the dense layers alone after each step.

    Steps and dense layers alternate, so that a machine whose speed drifts affects both alike.
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
        """Run all requests and return sums over all steps, in seconds."""
        with self._phases_watched(), self._dense_layers_follow_steps():
            replay(self._engine, requests, len(requests))
        if not isinstance(self._engine.runner, ModelRunner):
            self._divide_graph_time()
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
        methods: list[tuple[Any, str, str]] = [
            (engine, "step", OUTPUT),
            (engine.scheduler, "schedule", SCHEDULING),
            (engine.scheduler, "record_computed", SCHEDULING),
            (engine.scheduler, "finish_group", SCHEDULING),
            (runner, "forward", FORWARD),
            (engine, "_compute", SAMPLING),  # without the forward pass, which is a phase of its own
            (SequenceText, "push", DETOKENIZATION),
        ]
        if isinstance(runner, ModelRunner):
            methods += torch_methods(runner)
        else:
            methods.append((runner.infer_request, "infer", GRAPH))
        with ExitStack() as stack:
            for owner, name, phase in methods:
                stack.enter_context(self._watch.watching(owner, name, phase))
            yield

    @contextmanager
    def _dense_layers_follow_steps(self) -> Iterator[None]:
        step, forward = self._engine.step, self._engine.runner.forward

        def step_and_time_layers() -> list[Output]:
            outputs = step()
            self._time_dense_layers()
            return outputs

        def forward_and_note(plan: StepPlan) -> torch.Tensor:
            logits = forward(plan)
            self._num_tokens, self._num_logit_rows = plan.num_tokens, len(logits)
            return logits

        with (
            replaced(self._engine, "step", step_and_time_layers),
            replaced(self._engine.runner, "forward", forward_and_note),
        ):
            yield

    def _time_dense_layers(self) -> None:
        self._num_steps += 1
        with self._watch.paused():
            started = time.perf_counter()
            self._dense_layers(self._num_tokens, self._num_logit_rows)
            self._dense_alone_s += time.perf_counter() - started

    def _divide_graph_time(self) -> None:
        """Divide the time of a compiled graph by the runtime's own counters."""
        runner: Any = self._engine.runner
        shares, graph_s = read_shares(runner.infer_request), self._watch.seconds[GRAPH]
        self._watch.move(GRAPH, DENSE, shares.dense_layers * graph_s)
        self._watch.move(GRAPH, ATTENTION, shares.attention * graph_s)
        self._watch.move(GRAPH, HEAD, shares.head * graph_s)
        self._watch.move(GRAPH, FORWARD, self._watch.seconds[GRAPH])


def torch_methods(runner: ModelRunner) -> list[tuple[Any, str, str]]:
    """Return where to time the parts of torch's forward pass: owner, method and phase."""
    model = runner.model
    layers = [
        (module, "forward", DENSE)
        for name, module in model.transformer.named_modules()
        if name.rpartition(".")[2] in DENSE_LAYERS
    ]
    attention = [(kind, "__call__", ATTENTION) for kind in (PagedAttention, FlashAttention)]
    return [*attention, (model.lm_head, "forward", HEAD), *layers]
