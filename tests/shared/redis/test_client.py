import asyncio
from pathlib import Path
from urllib.parse import quote

import pytest
from redis.exceptions import AuthenticationError, TimeoutError

from shared.errors import SettingsError
from shared.process.asyncio_tasks import cancel_all
from shared.redis.client import connect
from tests.redis_server import RedisServer

WAIT_S = 30.0


@pytest.mark.parametrize(
    "url",
    ["http://localhost", "redis://localhost:99999", "redis://h?db=x", "redis://h?nonsense=1", ""],
)
def test_an_unusable_url_is_an_error_of_one_line(url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url") as caught:
        connect(url, name="test")
    assert "\n" not in caught.value.message


def test_errors_do_not_contain_the_password() -> None:
    with pytest.raises(SettingsError) as caught:
        connect("http://:secret@localhost", name="test")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/2",
        "rediss://u:p@h",
        "rediss://h?ssl_cert_reqs=none",
        "unix:///tmp/redis.sock",
        "redis+sentinel://a,b/m/1",
        "rediss+sentinel://a,b/m",
    ],
)
async def test_every_scheme_yields_a_client(url: str) -> None:
    await connect(url, name="test").aclose()


async def test_a_server_that_never_answers_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.redis.client.COMMAND_TIMEOUT_S", 0.1)

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client disconnects
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = connect(f"redis://127.0.0.1:{port}", name="test")
        with pytest.raises(TimeoutError, match="Timeout reading from 127"):
            async with asyncio.timeout(WAIT_S):
                await client.ping()
        await client.aclose()


async def test_a_missing_or_wrong_password_is_an_authentication_error(tmp_path: Path) -> None:
    password = "p$w`\"'/?#@%41:[ü\\"
    server = RedisServer(tmp_path, password=password)
    server.start()
    try:
        async with connect(
            server.url.replace("//", f"//:{quote(password, safe='')}@"), name="test"
        ) as client:
            await client.ping()
        for credentials, said in (
            ("", "Authentication required"),
            (":wrong@", "invalid username-password"),
        ):
            url = server.url.replace("//", f"//{credentials}")
            client = connect(url, name="test")
            with pytest.raises(AuthenticationError, match=said):
                async with asyncio.timeout(WAIT_S):
                    await client.ping()
            await client.aclose()
    finally:
        server.stop()


async def test_a_task_that_ignores_a_cancellation_is_cancelled_again() -> None:
    ignored: list[bool] = []

    async def stubborn() -> None:
        while len(ignored) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ignored.append(True)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancel_all([task])
    assert task.done()


async def test_a_missing_certificate_file_is_an_error_of_one_line() -> None:
    with pytest.raises(SettingsError, match="No such file") as caught:
        connect("rediss://h?ssl_ca_certs=/no/such/ca.pem", name="test")
    assert "\n" not in caught.value.message
