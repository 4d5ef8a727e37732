"""Settings of the whole test suite.

Property tests have no deadline, because machines may be slow. Their examples depend only on the
seed: by default Hypothesis also tries constants of the loaded modules, so that examples depend on
the tests before.
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

# Variables for the service, a proxy or colours, which must not affect tests.
FOREIGN = re.compile(r"FALCONER_(?!TEST_).*|.*_proxy|FORCE_COLOR|GITHUB_ACTIONS|COLUMNS", re.I)
for variable in [*os.environ]:
    if FOREIGN.fullmatch(variable):
        del os.environ[variable]

settings.register_profile("falconer", deadline=None)
settings.load_profile("falconer")
if hasattr(providers, "_get_local_constants"):  # `test_repeatable` fails if this has no effect
    providers._get_local_constants = providers.Constants

PROCESS_TESTS = ("tests/integration/", "tests/chaos/", "tests/serve/")
# Run first, so that no runner waits for another one's long file at the end.
LONGEST = ("tests/worker/engine/test_exactness.py", "tests/worker/engine/test_isolation.py")
STDERR = pytest.StashKey[int]()
HAS_FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Give tests the same signals and the real stderr, however the run was started."""
    if getattr(config.option, "dist", "no") == "no":  # not in a process that only distributes tests
        restore_inheritable_signals()
    config.stash[STDERR] = os.dup(2)  # pytest does not capture this hook's output


def restore_inheritable_signals() -> None:
    """Reset signals that this process ignores, so that the processes of tests handle them.

    A background job of a shell ignores SIGINT, and a job under nohup SIGHUP. Children do not
    inherit handlers, so they get the default action and this run still ignores the signal. The run
    leaves the session of a terminal, whose end would reach the children.
    """
    for signum in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)
            if signum is signal.SIGHUP:
                with suppress(PermissionError):  # for a session leader, which `make` does not start
                    os.setsid()


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exclude the objects of the collection from garbage collection, a fifth of its time.

    Later collections skip them too, and are fast enough to run after each module.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def collect_garbage() -> Iterator[None]:
    """Collect garbage after each module, so that its open resources fail no other module."""
    yield
    forget_apps()
    gc.collect()


def forget_apps() -> None:
    """Clear the caches of FastAPI, which hold each app, its fake Redis and its Lua runtime.

    The thousand apps of a run would take 4 GB, and each garbage collection would scan them.
    """
    module = sys.modules.get("fastapi.dependencies.models")
    for function in vars(module).values() if module else ():
        if clear := getattr(function, "cache_clear", None):
            clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Release the resources of a failed test, so that they do not fail the next test.

    Its traceback refers to processes, sockets and tasks, which warn when they are collected.
    """
    result = yield
    if item.stash.get(HAS_FAILED, False):
        report_unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)  # pytest keeps them for a debugger
        gc.collect()
        sys.unraisablehook = report_unraisable
    return result


def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    node.stash[HAS_FAILED] = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Limit the teardown of a failed test, because a failure cancels both timeouts."""
    timeout_s = float(item.config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=item.config.stash[STDERR])
    return (yield)


class ProcessesApart(LoadScopeScheduling):
    """Schedules tests that start processes on one runner and other tests on the rest.

    Process tests mostly wait. They are scheduled one by one, others by file. A runner without work
    of its own takes work of the others.
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
        """Assign units until the runner has more than two tests, as it holds back its last test.

        xdist assigns a single unit to a replacement runner, which may be a single test.
        """
        num_units = len(self.workqueue) + 1
        while len(self.workqueue) < num_units:
            num_units = len(self.workqueue)
            super()._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Return the test during which the runner's process ended, if any, and do not repeat it.

        xdist would repeat the test, and wait forever for completed units.
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
