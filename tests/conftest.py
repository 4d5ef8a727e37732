"""Settings of the whole suite: property tests are never timed, machines may be slow.

What Hypothesis draws hangs on its seed alone. It would also try constants that it finds in the
modules loaded so far: then what a derandomized test sees depends on the tests before it.
"""

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("falconer", deadline=None)
settings.load_profile("falconer")
if hasattr(providers, "_get_local_constants"):  # `test_repeatable` says when that is not enough
    providers._get_local_constants = providers.Constants

PROCESS_TESTS = ("tests/integration/", "tests/chaos/", "tests/serve/")


class ProcessesApart(LoadScopeScheduling):
    """Shares out whole files; those that start processes, which mostly wait, all go to one runner.

    So no two services share the cores, and another runner has them while this one waits.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "processes" if nodeid.startswith(PROCESS_TESTS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ProcessesApart:
    return ProcessesApart(config, log)
