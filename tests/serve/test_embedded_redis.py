"""The Redis we start ourselves: a real one, private, and with a memory."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from serve.embedded_redis import EmbeddedRedis, find_redis_binary
from shared.errors import SettingsError
from tests.processes import end


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


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    with running(EmbeddedRedis.prepare(tmp_path / "a folder")) as client:
        client.set("kept", "yes")
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    with running(EmbeddedRedis.prepare(tmp_path / "a folder")) as client:
        assert client.get("kept") == b"yes"


def test_it_answers_nobody_without_the_password(tmp_path: Path) -> None:
    server = EmbeddedRedis.prepare(tmp_path)
    with running(server), redis.Redis(port=server.port) as stranger:
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_without_any_binary_the_error_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingsError, match="redis-url"):
        find_redis_binary()
