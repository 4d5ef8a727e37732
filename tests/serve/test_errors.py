"""Startup errors of `falconer serve`: one line on stderr and exit code 2."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.main import memory_share
from shared.process.sockets import free_port
from worker.host_memory import FreeMemory


def serve(*flags: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "falconer", "serve", *flags],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def assert_one_line(result: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2
    assert len(lines) == 1
    assert lines[0].startswith("falconer: ")
    for part in parts:
        assert part in lines[0]


def test_a_port_in_use_is_reported(taken_port: int, tmp_path: Path) -> None:
    result = serve("--port", str(taken_port), "--state-dir", str(tmp_path))
    assert_one_line(result, f"127.0.0.1:{taken_port}", "Address already in use", "--port")


def test_a_missing_model_folder_is_reported(tmp_path: Path) -> None:
    result = serve("--model", str(tmp_path / "nowhere"), "--state-dir", str(tmp_path))
    assert_one_line(result, "nowhere", "no config.json", "--model")


def test_an_unavailable_hub_id_is_reported_with_the_last_line_of_the_worker(tmp_path: Path) -> None:
    result = serve(
        "--model",
        "falconer-test/no-such-model",
        "--state-dir",
        str(tmp_path),
        "--port",
        str(free_port()),
        HF_HUB_OFFLINE="1",
    )
    assert_one_line(result, "worker 1", "falconer-test/no-such-model")


def test_a_model_that_does_not_fit_is_reported_with_the_memory_it_needs(tmp_path: Path) -> None:
    flags = ["--state-dir", str(tmp_path), "--port", str(free_port())]
    result = serve(*flags, FALCONER_MEMORY="16MiB")
    assert_one_line(
        result, "ended with exit code 2", "it needs", "0 B are left by the setting memory"
    )


@pytest.mark.parametrize(
    ("num_workers", "variables", "expected"),
    [
        (1, {}, []),
        (3, {}, ["--memory", "100"]),
        (3, {"FALCONER_MEMORY": "1GiB"}, []),  # the workers read the variable
    ],
)
def test_several_workers_share_the_free_memory(
    num_workers: int,
    variables: dict[str, str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FALCONER_MEMORY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("serve.main.free_memory", lambda: FreeMemory(301, "in this test"))
    assert memory_share(num_workers) == expected


@pytest.mark.parametrize(
    ("flags", "env", "parts"),
    [
        (["--port", "0"], {}, ["--port", "FALCONER_PORT", "'0'", "greater than or equal to 1"]),
        (["--port", "http"], {}, ["--port", "'http'", "valid integer"]),
        ([], {"FALCONER_WORKERS": "none"}, ["FALCONER_WORKERS", "'none'", "valid integer"]),
    ],
)
def test_an_invalid_setting_is_reported_with_its_value_and_rule(
    flags: list[str], env: dict[str, str], parts: list[str]
) -> None:
    assert_one_line(serve(*flags, **env), *parts)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "redis+sentinel://127.0.0.1:{}/master"])
def test_an_unreachable_redis_is_reported(url: str, tmp_path: Path) -> None:
    url = url.format(free_port())
    result = serve("--redis-url", url, "--state-dir", str(tmp_path), "--port", str(free_port()))
    assert_one_line(result, "--redis-url", "cannot reach Redis")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0?foo=1", "http://127.0.0.1"])
def test_an_invalid_redis_url_is_reported(url: str, tmp_path: Path) -> None:
    result = serve("--redis-url", url, "--state-dir", str(tmp_path), "--port", str(free_port()))
    assert_one_line(result, "--redis-url")


def test_a_redis_that_does_not_respond_is_reported(tmp_path: Path) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        flags = ["--redis-url", url, "--state-dir", str(tmp_path), "--port", str(free_port())]
        assert_one_line(serve(*flags), "--redis-url", "cannot reach Redis")


def test_a_state_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    result = serve("--state-dir", str(file), "--port", str(free_port()))
    assert_one_line(result, "--state-dir", str(file), "Not a directory")


def test_a_folder_with_the_name_of_a_package_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "__init__.py").write_text("raise RuntimeError('not ours')")
    result = subprocess.run(
        [sys.executable, "-P", "-m", "falconer", "serve", "--model", "falconer-test/none"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "FALCONER_PORT": str(free_port())},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_one_line(result, "worker 1", "falconer-test/none")
