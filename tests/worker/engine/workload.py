"""Workloads of the engine: scheduled requests, an engine's size, and the results.

A workload can be printed as one line of Python that runs it again, as a failing test does.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from worker.engine import (
    Engine,
    EngineConfig,
    Executor,
    FinishReason,
    Request,
    RequestFailed,
    SamplingParams,
    TokenOutput,
)

MAX_STEPS = 2_000  # far above what any workload needs that makes progress


@dataclass(frozen=True)
class ScheduledRequest:
    prompt: tuple[int, ...]
    params: SamplingParams
    priority: int = 0
    gives_way: bool = False
    arrives: int = 0  # before this step
    leaves: int | None = None  # aborted this many steps later
    adapter: str | None = None


@dataclass(frozen=True)
class Workload:
    """Requests to one engine."""

    style: str  # of the checkpoint
    config: EngineConfig
    requests: tuple[ScheduledRequest, ...]
    preempt_at: tuple[int, ...] = ()  # steps before which the last running group is preempted
    executor: Executor = Executor.TORCH


@dataclass
class Result:
    """The output of one request."""

    outputs: dict[int, list[TokenOutput]] = field(default_factory=lambda: defaultdict(list))
    failure: RequestFailed | None = None
    is_aborted: bool = False

    @property
    def text(self) -> list[list[tuple[int, str, FinishReason | None]]]:
        """Tokens, texts and ends of every sequence: must not depend on other requests."""
        return [
            [(output.token_id, output.text, output.finish_reason) for output in outputs]
            for _, outputs in sorted(self.outputs.items())
        ]

    def token_ids(self, sequence: int) -> list[int]:
        return [output.token_id for output in self.outputs[sequence]]

    def add(self, output: TokenOutput | RequestFailed) -> None:
        assert self.failure is None, "output after the end"
        assert not self.is_aborted, "output after the end"
        if isinstance(output, RequestFailed):
            self.failure = output
        else:
            self.outputs[output.sequence].append(output)


def run_all(
    engine: Engine,
    requests: Sequence[ScheduledRequest],
    before_step: Callable[[int], None] | None = None,
) -> list[Result]:
    """Run an idle engine until all requests have ended; return their results.

    `before_step` is called before each step with its number.
    """
    results = [Result() for _ in requests]
    for step in range(MAX_STEPS):
        for number, scheduled in enumerate(requests):
            _add_or_abort(engine, str(number), scheduled, step, results[number])
        if not engine.has_work and all(scheduled.arrives <= step for scheduled in requests):
            assert engine.used_kv_tokens == 0, "blocks leaked"
            return results
        if before_step:
            before_step(step)
        for output in engine.step():
            results[int(output.request_id)].add(output)
    raise AssertionError("a request starves")


def _add_or_abort(
    engine: Engine, request_id: str, scheduled: ScheduledRequest, step: int, result: Result
) -> None:
    if step == scheduled.arrives:
        engine.add(
            Request(
                request_id=request_id,
                prompt_token_ids=list(scheduled.prompt),
                params=scheduled.params,
                priority=scheduled.priority,
                gives_way=scheduled.gives_way,
                adapter=scheduled.adapter,
            )
        )
    if scheduled.leaves is not None and step == scheduled.arrives + scheduled.leaves:
        result.is_aborted = any(g.request_id == request_id for g in engine.scheduler.groups)
        engine.abort(request_id)


def to_source(value: Any) -> str:
    """Return one line of Python that makes an equal value; fields at their default are omitted."""
    if is_dataclass(value):
        arguments = (
            f"{f.name}={to_source(getattr(value, f.name))}"
            for f in fields(value)
            if getattr(value, f.name) != _default(f)
        )
        return f"{type(value).__name__}({', '.join(arguments)})"
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return f"({''.join(to_source(item) + ', ' for item in value).rstrip()})"
    return repr(value)


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()
