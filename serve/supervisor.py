"""Run Redis, the api and the workers as one service: start, restart and stop the processes."""

import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType

import httpx

from serve.child import Child
from serve.screen import Screen
from shared.errors import SettingsError
from shared.process.signals import stop_signals

STOP_AFTER_S = 4.5  # for api and workers; Redis stops after them, within five seconds in all
POLL_S = 0.1


class Supervisor:
    """Start, watch and end the child processes of one service."""

    def __init__(
        self,
        *,
        redis: Child | None,  # None: the user runs a Redis
        api: Child,
        workers: dict[str, Child],  # by worker id
        before_api: Callable[[], None],
        live_workers: Callable[[], set[str]],  # ids that Redis lists
        url: str,
        screen: Screen,
    ) -> None:
        self.redis = redis
        self.api = api
        self.workers = workers
        self.before_api = before_api
        self.live_workers = live_workers
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
        if self.is_stopping:  # the second signal: do not drain
            for child in self.children:
                if child.process:
                    child.process.kill()
        self.is_stopping = True

    def start(self, timeout_s: float) -> None:
        """Start every child, and wait until the api responds and every worker is live.

        Raises SettingsError with the last log line of a child that exits before that.
        """
        deadline = time.monotonic() + timeout_s
        for child in self.children:
            if child is self.api:
                self.before_api()
            child.start()
        self._wait_until("the api", self._api_responds, deadline)
        self.screen.say("  api is up; loading the model ...")
        self._wait_until("the workers", self._workers_are_live, deadline)

    def _wait_until(self, name: str, is_ready: Callable[[], bool], deadline: float) -> None:
        while not self.is_stopping:
            self._check_children()
            if is_ready():
                return
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"{name} did not start within --start-timeout-s; see {self.api.log.parent}"
                )
            time.sleep(POLL_S)

    def _check_children(self) -> None:
        for child in self.children:
            if not child.is_running:
                raise SettingsError(f"{child.name} {child.death}: {child.last_line()}")

    def _api_responds(self) -> bool:
        try:
            response = httpx.get(f"{self.url}/livez", timeout=2, trust_env=False)
        except httpx.HTTPError:
            return False
        return response.status_code == 200

    def _workers_are_live(self) -> bool:
        """Compare ids: workers of an earlier run may still be listed for some seconds.

        Redis knows them without an API key.
        """
        return self.workers.keys() <= self.live_workers()

    def run(self) -> None:
        """Restart children that exit, until a signal stops the service."""
        while not self.is_stopping:
            for child in self.children:
                child.restart_if_dead(self.screen.say)
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Drain the api and the workers together; Redis stops after them."""
        deadline = time.monotonic() + STOP_AFTER_S
        _stop([self.api, *self.workers.values()], deadline)
        _stop([self.redis] if self.redis else [], deadline + 0.4)


def _stop(children: Iterable[Child], deadline: float) -> None:
    children = list(children)
    for child in children:
        child.terminate()
    for child in children:
        child.wait(deadline)
