"""Measure seconds by phase by wrapping functions in a context."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopwatch:
    """Seconds by phase; a phase does not include the phases inside it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner_s = [0.0]  # one entry per open phase, and one for the outside
        self._is_running = True

    def wrap(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self._is_running:
                return function(*args, **kwargs)
            self._inner_s.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed_s = time.perf_counter() - started
                self.seconds[phase] += elapsed_s - self._inner_s.pop()
                self._inner_s[-1] += elapsed_s

        return timed

    @contextmanager
    def watching(self, owner: Any, name: str, phase: str) -> Iterator[None]:
        """Time every call of `owner.name`, which is a method or a function of a module."""
        with replaced(owner, name, self.wrap(getattr(owner, name), phase)):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._is_running = False
        try:
            yield
        finally:
            self._is_running = True

    def move(self, source: str, target: str, seconds: float) -> None:
        """Move seconds of a phase, known from another clock, to another phase."""
        self.seconds[source] -= seconds
        self.seconds[target] += seconds


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute while the context lasts."""
    is_own = name in vars(owner)
    previous = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, previous)
        else:
            delattr(owner, name)
