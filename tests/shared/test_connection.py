import asyncio

import pytest

from shared.connection import connect
from shared.errors import SettingsError
from shared.tasks import cancel_all


@pytest.mark.parametrize(
    "url",
    ["http://localhost", "redis://localhost:99999", "redis://h?db=x", "redis://h?nonsense=1", ""],
)
def test_a_bad_url_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url") as caught:
        connect(url, name="test")
    assert "\n" not in caught.value.message


def test_a_password_is_not_repeated_in_errors() -> None:
    with pytest.raises(SettingsError) as caught:
        connect("http://:secret@localhost", name="test")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["redis://h:1/2", "rediss://u:p@h", "unix:///tmp/redis.sock"])
async def test_each_scheme_of_redis_gives_a_client(url: str) -> None:
    await connect(url, name="test").aclose()


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = []

    async def stubborn() -> None:
        while len(swallowed) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed.append(True)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancel_all([task])
    assert task.done()
