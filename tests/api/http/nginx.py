"""Run a real nginx with a configuration of the documentation."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

import pytest

from shared.process.sockets import free_port
from tests.api.api_process import PATIENCE_S, eventually

ROOT = Path(__file__).parents[3]
BINARY = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
LISTEN, UPSTREAM = "listen 80;", "server 127.0.0.1:8000;"

needs_nginx = pytest.mark.skipif(BINARY is None, reason="no nginx: apt-get install nginx-light")


def documented() -> str:
    """Return the one nginx block of docs/guides/proxy.md."""
    (block,) = (ROOT / "docs" / "guides" / "proxy.md").read_text().split("```nginx\n")[1:]
    return block.partition("```")[0]


class Nginx:
    """On a free loopback port; writes everything below `directory`. Runs while it is entered."""

    def __init__(self, directory: Path, configuration: str, *upstream_ports: int) -> None:
        self.port = free_port()
        servers = "".join(f"server 127.0.0.1:{port};" for port in upstream_ports)
        assert configuration.count(LISTEN) == configuration.count(UPSTREAM) == 1
        block = configuration.replace(LISTEN, f"listen 127.0.0.1:{self.port};")
        (directory / "nginx.conf").write_text(surrounded(block.replace(UPSTREAM, servers)))
        self._errors = directory / "error.log"
        assert BINARY is not None
        self._command = [BINARY, "-p", directory, "-c", "nginx.conf", "-e", self._errors]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command)
        eventually(self._is_up)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._errors.read_text()
        return Path(self._errors.parent, "nginx.pid").exists()


def surrounded(block: str) -> str:
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers cannot enter the folder
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {kind};\n" for kind in kinds)
    return (
        f"daemon off;\nworker_processes 1;\npid nginx.pid;\n{user}\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}{block}}}\n"
    )
