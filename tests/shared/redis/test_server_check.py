"""Servers that a worker refuses: they are too old, or lose jobs when they restart."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.errors import SettingsError
from shared.queue.job_queue import JobQueue
from shared.queue.keys import Keys
from shared.redis.client import connect
from shared.redis.server_check import check_server
from tests.factories import make_job
from tests.redis_server import RedisServer, redis_binary

OFF = "--user default off".split()
OFF_BUT_ALLOWED = "--user default off +@all ~* &*".split()
SMALL = "--user small on >pw ~* &* +@all -@dangerous +info +client|setname".split()
SMALLEST = "--user smallest on >pw ~* &* +@all -@dangerous +client|setname".split()
ADMIN = "--user admin on >pw ~* &* +@all".split()
DENIED = b"$2\r\nno\r\n"


def server_with_fault() -> str | None:
    """Return a Redis 7.0 to 8.4: the server of the tests, or the one on the PATH (Debian 12)."""
    for binary in (redis_binary(), shutil.which("redis-server")):
        said = subprocess.run(
            [binary or "true", "--version"], capture_output=True, text=True
        ).stdout
        if re.search(r"Redis server v=(7\.|8\.[0-4]\.)", said):
            return binary
    return None


@asynccontextmanager
async def client_of(server: RedisServer, user: str) -> AsyncIterator[Redis]:
    client = connect(server.url.replace("//", f"//{user}:pw@"), name="test")
    yield client
    await client.aclose()


@asynccontextmanager
async def running(directory: Path, *users: str, binary: str | None) -> AsyncIterator[RedisServer]:
    server = RedisServer(
        directory, append_only=True, binary=binary, options=[*users, *ADMIN, *SMALL, *SMALLEST]
    )
    server.start()
    yield server
    server.stop()


async def num_jobs_after_a_restart(server: RedisServer) -> int:
    async with client_of(server, "admin") as client:
        await JobQueue(client, Keys()).enqueue(make_job(), reply_to=None, max_queued=10)
    server.kill()
    server.start()
    async with client_of(server, "admin") as client:
        return (await JobQueue(client, Keys()).depth()).waiting


@pytest.mark.parametrize(("users", "num_jobs"), [(OFF, 0), (OFF_BUT_ALLOWED, 1)])
async def test_a_server_that_loses_accepted_jobs_is_refused(
    users: list[str], num_jobs: int, tmp_path: Path
) -> None:
    binary = server_with_fault()
    if binary is None:
        pytest.skip("no redis-server of version 7.0 to 8.4")
    async with running(tmp_path, *users, binary=binary) as server:
        async with client_of(server, "admin") as client:
            if num_jobs:
                await check_server(client)
            else:
                with pytest.raises(SettingsError, match=r"redis#14541.*ACL SETUSER default"):
                    await check_server(client)
        assert await num_jobs_after_a_restart(server) == num_jobs


async def test_a_server_without_the_fault_is_accepted(tmp_path: Path) -> None:
    if server_with_fault() == redis_binary():
        pytest.skip("the tests run a server with the fault")
    async with running(tmp_path, *OFF, binary=None) as server:
        for user in ("admin", "small"):
            async with client_of(server, user) as client:
                await check_server(client)
        assert await num_jobs_after_a_restart(server) == 1


@pytest.mark.parametrize("aof", [0, 1])
@pytest.mark.parametrize(
    ("version", "has_fault"),
    [
        *(("redis_version:6.2.14", False), ("redis_version:7.0.0", True)),
        *(("redis_version:7.4.2", True), ("redis_version:8.4.6", True)),
        *(("redis_version:8.6.0", False), ("redis_version:8.10.1", False)),
        *(("redis_version:7.2.4\r\nvalkey_version:8.1.4", True),),
        *(("redis_version:7.2.4\r\nvalkey_version:9.1.1", True),),
        *(("redis_version:7.2.4\r\nvalkey_version:9.1.2", False),),
        *(("redis_version:7.2.4\r\nvalkey_version:10.0.0", False),),
    ],
)
async def test_errors_name_the_version_with_the_fault(
    version: str, has_fault: bool, aof: int
) -> None:
    url = "redis://user@127.0.0.1:{}"
    async with answering(f"{version}\r\naof_enabled:{aof}", url) as client:
        if has_fault and aof:
            number = version.rpartition(":")[2]
            with pytest.raises(SettingsError, match=f"(Redis|Valkey) {re.escape(number)} loses"):
                await check_server(client)
        else:
            await check_server(client)


async def test_a_client_that_is_the_default_user_is_accepted() -> None:
    async with answering("redis_version:7.0.0\r\naof_enabled:1", "redis://127.0.0.1:{}") as client:
        await check_server(client)


async def test_a_user_without_acl_permission_gets_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    info, url = "redis_version:7.0.0\r\naof_enabled:1", "redis://user@127.0.0.1:{}"
    async with answering(info, url, acl=b"-NOPERM this user has no permissions\r\n") as client:
        await check_server(client)
    assert "Redis was not checked for lost jobs at a restart" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("append_only", "options", "risks"),
    [
        (True, [], []),
        (False, [], ["appendonly is off"]),
        (True, ["--maxmemory-policy", "allkeys-lru"], ["allkeys-lru deletes jobs"]),
        (
            False,
            ["--maxmemory-policy", "volatile-ttl"],
            ["appendonly is off", "volatile-ttl deletes jobs"],
        ),
    ],
)
async def test_a_configuration_that_can_lose_jobs_gets_one_warning(
    append_only: bool,
    options: list[str],
    risks: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = RedisServer(tmp_path, append_only=append_only, options=[*options, *SMALL])
    server.start()
    async with client_of(server, "small") as client:
        await check_server(client)
    server.stop()
    said = capsys.readouterr().out
    assert said.count("Redis can lose accepted jobs") == bool(risks)
    assert all(risk in said for risk in risks)


async def test_a_user_without_info_permission_can_use_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path, binary=None) as server, client_of(server, "smallest") as client:
        await check_server(client)
        assert "Redis was not checked: no permission for INFO" in capsys.readouterr().out
        await JobQueue(client, Keys()).enqueue(make_job(), reply_to=None, max_queued=10)
        assert (await JobQueue(client, Keys()).depth()).waiting == 1


async def test_errors_name_the_version_that_is_too_old() -> None:
    async with answering("redis_version:6.0.16", "redis://127.0.0.1:{}") as client:
        with pytest.raises(SettingsError, match=r"Redis 6\.0\.16 is too old: .* 6\.2 or later"):
            await check_server(client)


@asynccontextmanager
async def answering(info: str, url: str, acl: bytes = DENIED) -> AsyncIterator[Redis]:
    """Yield a client of a server with these answers to INFO and ACL: versions not at hand."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while num_words := await reader.readline():
            words = [await _read_word(reader) for _ in range(int(num_words[1:]))]
            info_reply = f"${len(info)}\r\n{info}\r\n".encode()
            writer.write({b"INFO": info_reply, b"ACL": acl}.get(words[0], b"+OK\r\n"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        client = connect(url.format(server.sockets[0].getsockname()[1]), name="test")
        yield client
        await client.aclose()


async def _read_word(reader: asyncio.StreamReader) -> bytes:
    length = int((await reader.readline())[1:])
    return (await reader.readexactly(length + 2))[:-2]
