"""Startup of an api process, and its startup errors."""

import http.client
import json
import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.api.api_process import PATIENCE_S, ApiProcess, command, eventually, run_to_its_end
from tests.redis_server import RedisServer


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--port", "99999"], ["--port", "65535"]),
        (["--redis-url", "http://somewhere"], ["redis_url", "redis://"]),
        (["--host", "203.0.113.1"], ["203.0.113.1"]),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line(flags: list[str], names: list[str]) -> None:
    result = run_to_its_end(*flags)
    assert result.returncode != 0
    (line,) = result.stderr.strip().splitlines()
    assert all(name in line for name in names), line


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_to_its_end("--port", str(port))
    assert result.returncode != 0
    (line,) = result.stderr.strip().splitlines()
    assert str(port) in line


def test_settings_come_from_the_environment() -> None:
    environment = os.environ | {"FALCONER_SYNC_TIMEOUT_S": "-1"}
    result = subprocess.run(
        command(), env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert result.returncode != 0
    assert "FALCONER_SYNC_TIMEOUT_S" in result.stderr


def test_an_api_that_starts_before_redis_connects_later(tmp_path: Path) -> None:
    late = RedisServer(tmp_path)
    try:
        with ApiProcess(late.url, probe="/livez") as api:
            assert api.status("/readyz") == 503
            late.start()
            eventually(lambda: api.status("/readyz") == 200)
            assert api.stop() == 0
    finally:
        late.stop()


def test_the_address_of_a_client_does_not_hide_the_prefix_of_a_trusted_proxy(
    api: ApiProcess,
) -> None:
    """uvicorn would replace the address of the proxy, which is trusted, by that of the client."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=PATIENCE_S)
    headers = {"X-Forwarded-For": "203.0.113.5", "X-Forwarded-Prefix": "/falcon"}
    with closing(connection):
        connection.request("GET", "/openapi.json", headers=headers)
        document = json.load(connection.getresponse())
    assert document["servers"] == [{"url": "/falcon"}]
