"""Run an engine in a thread of its own, and connect it to the event loop.

Requests and aborts reach the thread through a queue. Outputs return in one callback, as soon as a
job needs them. Only `_run` and what it calls execute in the thread.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Protocol

import structlog
from llguidance import LLMatcher

from shared.protocol import JobError
from worker.engine import FailureCause, Output, Request, RequestFailed, StepReport, TokenOutput
from worker.engine.grammar.grammars import Grammars
from worker.generation import Generation

GRAMMAR_FIELD = "generate_kwargs.structured_outputs"
JOIN_TIMEOUT_S = 1.0
MAX_UNDELIVERED_STEPS = 64

log = structlog.get_logger(__name__)


class EngineLike(Protocol):
    """The part of `worker.engine.Engine` that the thread uses."""

    last_step: StepReport

    @property
    def grammars(self) -> Grammars: ...
    @property
    def has_work(self) -> bool: ...
    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def used_kv_tokens(self) -> int: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def num_prefix_hit_tokens(self) -> int: ...
    def add(self, request: Request) -> None: ...
    def abort(self, request_id: str) -> None: ...
    def step(self) -> list[Output]: ...


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class Call:
    work: Callable[[], object]
    done: "asyncio.Future[None]"


@dataclass(frozen=True, slots=True)
class Stop:
    pass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Figures as of the last step or abort."""

    running: int = 0  # sequences
    waiting: int = 0  # sequences
    used_kv_tokens: int = 0
    # Since the start:
    num_tokens: int = 0  # generated
    num_preemptions: int = 0
    num_prefix_hit_tokens: int = 0


class EngineThread:
    """Run an engine in a thread. `failed` is set if the thread dies, or by `fail`."""

    def __init__(
        self,
        engine: EngineLike,
        prepare_thread: Callable[[], None] = lambda: None,
        on_step: Callable[[StepReport], None] = lambda _: None,
    ) -> None:
        """Run `prepare_thread` first, for settings that a library keeps per thread.

        `on_step` is called in the thread after each step.
        """
        self.stats = EngineStats()
        self.failed = asyncio.Event()
        self.failure = ""  # the reason, once `failed` is set
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._commands: SimpleQueue[Request | Abort | Call | Stop] = SimpleQueue()
        self._generations: dict[str, Generation] = {}  # by request id; the thread only reads it
        # Rows and outputs of each step; belongs to the thread.
        self._undelivered: list[tuple[int, list[Output]]] = []
        self._prepare_thread = prepare_thread
        self._on_step = on_step
        self._is_stopped = False
        self._step_started: float | None = None  # monotonic seconds
        self._num_tokens = 0
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; wait at most JOIN_TIMEOUT_S for that step.

        Do nothing if the thread never started.
        """
        self._is_stopped = True
        self._commands.put(Stop())
        if self._thread.is_alive():
            self._thread.join(JOIN_TIMEOUT_S)

    async def compile_grammar(self, grammar: str) -> LLMatcher:
        """Compile a grammar for a request to submit, in a thread that delays no step.

        Raises ValueError with the reason why it cannot be used.
        """
        return await asyncio.to_thread(self._engine.grammars.compile, grammar)

    def submit(self, request: Request, generation: Generation) -> None:
        """Start generating. The request's id must be new in this process."""
        self._generations[request.request_id] = generation
        self._commands.put(request)

    def abort(self, request_id: str) -> None:
        """Stop generating and free the request's rows before the next step.

        A finished request is no error.
        """
        if self._generations.pop(request_id, None) is not None:
            self._commands.put(Abort(request_id))

    def call(self, work: Callable[[], object]) -> "asyncio.Future[None]":
        """Run `work` in the thread before its next step; the future is done afterwards."""
        done = self._loop.create_future()
        self._commands.put(Call(work, done))
        return done

    def fail(self, reason: str) -> None:
        """Set `failed` and `failure`, from any thread: the engine's thread may be idle or blocked.

        A call after `stop` changes nothing: `stop` itself ends the engine's processes.
        """
        if self._is_stopped:
            return
        log.error("the engine failed", reason=reason)
        self._end(reason)

    @property
    def step_age_s(self) -> float:
        """Return the seconds since the current step began; 0 between steps."""
        started = self._step_started
        return 0.0 if started is None else time.monotonic() - started

    def _run(self) -> None:
        try:
            self._prepare_thread()
            while self._execute_commands():
                if self._engine.has_work:
                    self._step()
        except Exception as error:
            log.exception("the engine failed")
            self._end(f"{type(error).__name__}: {error}")

    def _end(self, reason: str) -> None:
        self.failure = f"the engine failed: {reason}"
        self._call(self.failed.set)

    def _execute_commands(self) -> bool:
        """Wait for a command if idle, then execute all there are; return False at a Stop."""
        try:
            command = self._commands.get(block=not self._engine.has_work)
            while not isinstance(command, Stop):
                self._execute(command)
                command = self._commands.get_nowait()
            return False
        except Empty:
            return True

    def _execute(self, command: Request | Abort | Call) -> None:
        if isinstance(command, Call):
            command.work()
            self._call(command.done.set_result, None)
            return
        if isinstance(command, Abort):
            self._engine.abort(command.request_id)
            self._measure()  # no step may follow
            return
        try:
            self._engine.add(command)
        except ValueError as error:
            refusal = JobError(message=str(error), status_code=400)
            self._call(self._fail, command.request_id, refusal)

    def _step(self) -> None:
        self._step_started = time.monotonic()
        outputs = self._engine.step()
        self._step_started = None
        self._num_tokens += sum(isinstance(output, TokenOutput) for output in outputs)
        self._measure()
        self._on_step(self._engine.last_step)
        self._undelivered.append((self._engine.last_step.num_rows, outputs))
        if self._is_awaited(outputs) or len(self._undelivered) >= MAX_UNDELIVERED_STEPS:
            self._call(self._deliver, self._undelivered)
            self._undelivered = []

    def _measure(self) -> None:
        self.stats = EngineStats(
            running=self._engine.num_running,
            waiting=self._engine.num_waiting,
            used_kv_tokens=self._engine.used_kv_tokens,
            num_tokens=self._num_tokens,
            num_preemptions=self._engine.num_preemptions,
            num_prefix_hit_tokens=self._engine.num_prefix_hit_tokens,
        )

    def _is_awaited(self, outputs: list[Output]) -> bool:
        """Return whether a job needs an output now. Waking the loop delays the next step."""
        return any(
            isinstance(output, RequestFailed)
            or output.finish_reason is not None
            or self._is_streamed(output.request_id)
            for output in outputs
        )

    def _is_streamed(self, request_id: str) -> bool:
        generation = self._generations.get(request_id)
        return generation is not None and generation.is_streamed

    def _call(self, callback: Callable[..., object], *args: object) -> None:
        """Run `callback` on the event loop, unless the loop is closed already."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _deliver(self, steps: list[tuple[int, list[Output]]]) -> None:
        for rows, outputs in steps:
            self._deliver_step(rows, outputs)

    def _deliver_step(self, rows: int, outputs: list[Output]) -> None:
        by_request: dict[str, list[TokenOutput]] = {}
        for output in outputs:
            if isinstance(output, RequestFailed):
                self._fail(output.request_id, _to_error(output))
            else:
                by_request.setdefault(output.request_id, []).append(output)
        for request_id, tokens in by_request.items():
            generation = self._generations.get(request_id)
            if generation is not None:
                generation.take(tokens, rows)
                if generation.is_done:
                    del self._generations[request_id]

    def _fail(self, request_id: str, error: JobError) -> None:
        generation = self._generations.pop(request_id, None)
        if generation is not None:
            generation.fail(error)


def _to_error(failed: RequestFailed) -> JobError:
    if failed.cause is FailureCause.GRAMMAR:
        return JobError(message=failed.message, status_code=422, field=GRAMMAR_FIELD)
    status_code = 422 if failed.cause is FailureCause.PARAMETERS else 500
    return JobError(message=failed.message, status_code=status_code)
