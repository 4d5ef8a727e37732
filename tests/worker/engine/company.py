"""Requests in company: who comes when to an engine of what size, and what each of them got.

A company can be spelled as one line of Python that plays it again: what a failing test prints.
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

MAX_STEPS = 2_000  # far above what any company needs that makes progress


@dataclass(frozen=True)
class Guest:
    """A request that comes after `arrives` steps and is aborted `leaves` steps later, if ever."""

    prompt: tuple[int, ...]
    params: SamplingParams
    priority: int = 0
    arrives: int = 0
    leaves: int | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Company:
    """Guests of one engine, which runs a checkpoint of `style`.

    Before each of the steps in `upsets` the last in line of those that run is sent back.
    """

    style: str
    config: EngineConfig
    guests: tuple[Guest, ...]
    upsets: tuple[int, ...] = ()
    executor: Executor = Executor.TORCH


@dataclass
class Result:
    """What a guest got: tokens by sequence, and why it failed if it did."""

    outputs: dict[int, list[TokenOutput]] = field(default_factory=lambda: defaultdict(list))
    failure: RequestFailed | None = None
    is_aborted: bool = False

    @property
    def told(self) -> list[list[tuple[int, str, FinishReason | None]]]:
        """Tokens, text and ends of every sequence: what must not depend on the company."""
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


def play(
    engine: Engine, guests: Sequence[Guest], disturb: Callable[[int], None] | None = None
) -> list[Result]:
    """Run an idle engine until it is idle again; a result for each guest.

    `disturb` is called before each step with its number.
    """
    results = [Result() for _ in guests]
    for step in range(MAX_STEPS):
        for number, guest in enumerate(guests):
            _come_and_go(engine, str(number), guest, step, results[number])
        if not engine.has_work and all(guest.arrives <= step for guest in guests):
            assert engine.used_kv_tokens == 0, "blocks leaked"
            return results
        if disturb:
            disturb(step)
        for output in engine.step():
            results[int(output.request_id)].add(output)
    raise AssertionError("somebody starves")


def _come_and_go(engine: Engine, request_id: str, guest: Guest, step: int, result: Result) -> None:
    if step == guest.arrives:
        engine.add(
            Request(
                request_id=request_id,
                prompt_token_ids=list(guest.prompt),
                params=guest.params,
                priority=guest.priority,
                adapter=guest.adapter,
            )
        )
    if guest.leaves is not None and step == guest.arrives + guest.leaves:
        result.is_aborted = request_id in engine._streams
        engine.abort(request_id)


def spell(value: Any) -> str:
    """Python that makes an equal value, in one line; what is at its default is left out."""
    if is_dataclass(value):
        spelled = (
            f"{f.name}={spell(getattr(value, f.name))}"
            for f in fields(value)
            if getattr(value, f.name) != _default(f)
        )
        return f"{type(value).__name__}({', '.join(spelled)})"
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, tuple):
        return f"({''.join(spell(item) + ', ' for item in value).rstrip()})"
    return repr(value)


def _default(f: Field[Any]) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()
