"""The embedded Redis: private, persistent and restricted."""

import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from serve.embedded_redis import EmbeddedRedis, find_redis_binary
from shared.errors import SettingsError
from tests.processes import end
from tests.redis_server import redis_binary


def prepare(directory: Path) -> EmbeddedRedis:
    return replace(EmbeddedRedis.prepare(directory), binary=redis_binary())


@contextmanager
def running(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    process = subprocess.Popen(
        [server.binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin
    process.stdin.write(server.configuration.encode())
    process.stdin.close()
    try:
        with redis.Redis.from_url(server.url) as client:
            wait_for(client)
            yield client
    finally:
        end(process)


def wait_for(client: redis.Redis) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "redis did not start"
            time.sleep(0.02)


def test_data_survives_a_restart(tmp_path: Path) -> None:
    with running(prepare(tmp_path / "a folder")) as client:
        client.set("kept", "yes")
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    with running(prepare(tmp_path / "a folder")) as client:
        assert client.get("kept") == b"yes"


def test_clients_need_the_password(tmp_path: Path) -> None:
    server = prepare(tmp_path)
    with running(server), redis.Redis(port=server.port) as stranger:
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()


@pytest.mark.parametrize(
    "name", ['quote"', "apostrophe'", "back\\slash", "percent%d", "line\nbreak", "#hash", "näme"]
)
def test_the_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    directory = tmp_path / name / "redis"
    with running(prepare(directory)) as client:
        client.set("kept", "yes")
        assert client.config_get("dir")["dir"] == str(directory)
    assert any(directory.iterdir())


def test_a_file_with_the_name_of_the_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "redis").touch()
    with pytest.raises(SettingsError, match=r"--state-dir: cannot make .*/redis a private folder"):
        EmbeddedRedis.prepare(tmp_path / "redis")


def test_other_users_cannot_read_the_folder(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir(mode=0o755)  # readable to all, as with a common umask
    prepare(tmp_path / "redis")
    assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700


def test_the_server_listens_on_loopback_and_rejects_modules_and_debugging(tmp_path: Path) -> None:
    with running(prepare(tmp_path)) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("protected-mode") == {"protected-mode": "yes"}
        assert client.config_get("unixsocket") == {"unixsocket": ""}
        for command in ("MODULE LOAD x.so", "DEBUG SLEEP 0"):
            if redis_version(client) >= 7:  # Redis 6.2 has no such settings
                with pytest.raises(redis.ResponseError, match="not allowed"):
                    client.execute_command(command)


def redis_version(client: redis.Redis) -> int:
    return int(client.info("server")["redis_version"].split(".")[0])


def test_without_the_package_a_server_on_the_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(mode=0o755)
        assert find_redis_binary() == str(tmp_path / name)


def test_without_a_binary_the_error_names_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingsError, match="redis-url"):
        find_redis_binary()
