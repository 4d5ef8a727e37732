"""Settings of the whole suite: property tests are never timed, machines may be slow.

What Hypothesis draws hangs on its seed alone. It would also try constants that it finds in the
modules loaded so far: then what a derandomized test sees depends on the tests before it.
"""

import faulthandler
import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# What the environment says of the service, of a proxy or of colours is not meant for tests. What it
# says to the tests, such as FALCONER_TEST_REDIS_SERVER, is.
FOREIGN = re.compile(r"FALCONER_(?!TEST_).*|.*_proxy|FORCE_COLOR|GITHUB_ACTIONS|COLUMNS", re.I)
for variable in [*os.environ]:
    if FOREIGN.fullmatch(variable):
        del os.environ[variable]

settings.register_profile("falconer", deadline=None)
settings.load_profile("falconer")
if hasattr(providers, "_get_local_constants"):  # `test_repeatable` says when that is not enough
    providers._get_local_constants = providers.Constants

PROCESS_TESTS = ("tests/integration/", "tests/chaos/", "tests/serve/")
# StartResult first: at the end, no runner shall wait for another one's long file.
LONGEST = ("tests/worker/engine/test_exactness.py", "tests/worker/engine/test_isolation.py")
STDERR = pytest.StashKey[int]()
HAS_FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Give tests the same signals and the real stderr however the run was started."""
    if getattr(config.option, "dist", "no") == "no":  # not where others run the tests
        restore_inheritable_signals()
    config.stash[STDERR] = os.dup(2)  # pytest captures none of this hook's output


def restore_inheritable_signals() -> None:
    """Have the processes that tests start not ignore what this one ignores.

    A background job of a shell ignores Ctrl-C, one under nohup SIGHUP. A handler is not inherited:
    children get the default action, and the run still ignores the signal. Their terminal's end
    must not reach them either, so they leave its session.
    """
    for signum in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)
            if signum is signal.SIGHUP:
                with suppress(PermissionError):  # of a leader, which `make` does not start
                    os.setsid()


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage among what lives as long as the run: a fifth of the time of collecting.

    Later searches leave it out too, and are so fast that each module can have one.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_open() -> Iterator[None]:
    """Collect garbage with the module that made it: what it left open fails no other module."""
    yield
    gc.collect()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep what a failed test left open from failing the next one.

    Its traceback holds processes, sockets and tasks. They warn when they are collected, in
    whatever test runs then. The test that left them has failed already.
    """
    result = yield
    if item.stash.get(HAS_FAILED, False):
        report_unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)  # of which pytest keeps one failure's for a debugger
        gc.collect()
        sys.unraisablehook = report_unraisable
    return result


def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    node.stash[HAS_FAILED] = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Bound the teardown of a failed test: both timeouts are cancelled when a test fails."""
    timeout_s = float(item.config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=item.config.stash[STDERR])
    return (yield)


class ProcessesApart(LoadScopeScheduling):
    """Give one runner the tests that start processes, which mostly wait, and the others the rest.

    The units are single tests there and files elsewhere. A runner without work of its own takes
    that of the others.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(PROCESS_TESTS) else nodeid.partition("::")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        is_for_processes = node is self.nodes[0]
        own = [s for s in self.workqueue if s.startswith(PROCESS_TESTS) is is_for_processes]
        longest = [scope for scope in own if scope in LONGEST]
        self.workqueue.move_to_end((longest or own or [*self.workqueue])[0], last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        """Give the runner units until it has more than two tests: it does not begin its last one.

        xdist gives one that takes the place of another a single unit, which may be a single test.
        """
        num_units = len(self.workqueue) + 1
        while len(self.workqueue) < num_units:
            num_units = len(self.workqueue)
            super()._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Return the test during which the runner's process ended, if one ran, and give it up.

        xdist would run that test again, and wait for ever for units that are done already.
        """
        units = self.assigned_work[node]
        pending = [
            (unit, name) for unit in units.values() for name, done in unit.items() if not done
        ]
        for unit, name in pending[:1]:
            unit[name] = True
        self.assigned_work[node] = {
            scope: unit for scope, unit in units.items() if not all(unit.values())
        }
        super().remove_node(node)
        return pending[0][1] if pending else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ProcessesApart:
    return ProcessesApart(config, log)
