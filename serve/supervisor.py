"""Runs Redis, api and workers as one service: starts them in order, keeps them alive, stops them.

Knows processes, ports and readiness; nothing of jobs or models.
"""

import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import httpx

from serve.process import Child
from serve.screen import Screen
from shared.errors import SettingsError
from shared.process.signals import stop_signals

STOP_AFTER_S = 4.5  # with Redis still to close, a stop takes less than five seconds
POLL_S = 0.1


class Supervisor:
    """`workers` by the id they register under; `redis` is `None` when somebody else runs it."""

    def __init__(
        self,
        *,
        redis: Child | None,
        api: Child,
        workers: dict[str, Child],
        before_api: Callable[[], None],
        url: str,
        screen: Screen,
    ) -> None:
        self.redis = redis
        self.api = api
        self.workers = workers
        self.before_api = before_api
        self.url = url
        self.screen = screen
        self.is_stopping = False

    @property
    def children(self) -> list[Child]:
        return [*([self.redis] if self.redis else []), self.api, *self.workers.values()]

    def handle_signals(self) -> None:
        for signum in stop_signals():
            signal.signal(signum, self._request_stop)

    def _request_stop(self, _signum: int, _frame: FrameType | None) -> None:
        if self.is_stopping:  # asked twice: do not drain
            for child in self.children:
                if child.process:
                    child.process.kill()
        self.is_stopping = True

    def start(self, timeout_s: float) -> None:
        """Start every child and wait until the api answers and lists every worker.

        Raises `SettingsError` with the dying child's last words if one ends before that.
        """
        deadline = time.monotonic() + timeout_s
        for child in self.children:
            if child is self.api:
                self.before_api()
            child.start()
        self._wait_until("the api", self._api_answers, deadline)
        self.screen.say("  api is up; loading the model ...")
        self._wait_until("the workers", self._workers_are_there, deadline)

    def _wait_until(self, what: str, holds: Callable[[], bool], deadline: float) -> None:
        while not self.is_stopping:
            self._refuse_early_deaths()
            if holds():
                return
            if time.monotonic() > deadline:
                raise SettingsError(f"gave up waiting for {what}; see {self.api.log.parent}")
            time.sleep(POLL_S)

    def _refuse_early_deaths(self) -> None:
        for child in self.children:
            if not child.is_running:
                raise SettingsError(f"{child.name} {child.death}: {child.last_line()}")

    def _api_answers(self) -> bool:
        return self._get("/livez") is not None

    def _workers_are_there(self) -> bool:
        """By their ids: workers of an earlier run may still be listed for some seconds."""
        answer = self._get("/workers")
        listed = {worker["id"] for worker in answer["workers"]} if answer else set()
        return self.workers.keys() <= listed

    def _get(self, path: str) -> dict[str, Any] | None:
        """The answer as JSON; `None` unless it is a 200."""
        try:
            response = httpx.get(self.url + path, timeout=2, trust_env=False)
        except httpx.HTTPError:
            return None
        return response.json() if response.status_code == 200 else None

    def run(self) -> None:
        """Until a signal asks to stop: restart whatever dies, and say so."""
        while not self.is_stopping:
            for child in self.children:
                child.revive(self.screen.say)
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Drain api and workers together, so that open calls get their answers; then Redis."""
        deadline = time.monotonic() + STOP_AFTER_S
        _stop([self.api, *self.workers.values()], deadline)
        _stop([self.redis] if self.redis else [], deadline + 0.4)


def _stop(children: Iterable[Child], deadline: float) -> None:
    children = list(children)
    for child in children:
        child.terminate()
    for child in children:
        child.wait(deadline)
