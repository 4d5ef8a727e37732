"""Calls are retried until Redis answers, less and less often."""

from itertools import islice

import pytest
import structlog
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError
from structlog.testing import capture_logs

from shared.redis import retry as backoff
from shared.redis.retry import FIRST_DELAY_S, MAX_DELAY_S, backoff_delays, retry_until_reachable

log = structlog.get_logger(__name__)


class Call:
    """Raises the given errors in turn, then returns 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def __call__(self) -> int:
        if self.errors:
            raise self.errors.pop(0)
        return 7


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY_S", 0.0001)


async def test_a_call_is_repeated_until_it_succeeds_and_each_failure_is_logged() -> None:
    call = Call(ConnectionError("gone"), OSError("refused"), TimeoutError())
    with capture_logs() as logs:
        assert await retry_until_reachable(call, log.bind(job_id="a"), "a job waits") == 7
    assert [(line["event"], line["job_id"]) for line in logs] == [("a job waits", "a")] * 3
    assert [line["error"] for line in logs] == ["gone", "refused", "TimeoutError"]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ConnectionError("gone"), "Redis is unreachable"),
        (OSError("refused"), "Redis is unreachable"),
        (ResponseError("NOSCRIPT"), "Redis command failed"),
        (AuthenticationError("NOAUTH"), "Redis command failed"),
    ],
)
async def test_the_log_separates_errors_of_redis_from_outages(error: Exception, cause: str) -> None:
    with capture_logs() as logs:
        assert await retry_until_reachable(Call(error), log, "claim failed, will retry") == 7
    assert [line["cause"] for line in logs] == [cause]


async def test_errors_that_a_retry_cannot_cure_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        await retry_until_reachable(Call(ZeroDivisionError()), log, "a job waits")
    with pytest.raises(ConnectionError):
        await retry_until_reachable(Call(ConnectionError()), log, "a job waits", on=(KeyError,))


def test_delays_double_up_to_a_limit_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY_S", FIRST_DELAY_S)
    delays = list(islice(backoff_delays(), 2000))
    for number, delay_s in enumerate(delays):
        longest = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(number, 20))
        assert longest / 2 <= delay_s <= longest
    assert len(set(delays)) > 1000
