"""Drive the compose file with docker or podman.

The variables `CONTAINER` (docker or podman) and `COMPOSE` name the commands.
"""

import os
import shlex
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND_TIMEOUT_S = 300


def container_command() -> str:
    """Return `CONTAINER`, else docker if its engine runs, else podman."""
    if chosen := os.environ.get("CONTAINER"):
        return chosen
    try:
        subprocess.run(["docker", "info"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "podman"
    return "docker"


@dataclass(frozen=True)
class Compose:
    """A compose project with a name and a port of its own, which affects no other stack."""

    project: str
    port: int

    @cached_property
    def container(self) -> str:
        return container_command()

    @cached_property
    def command(self) -> list[str]:
        default = "docker compose" if self.container == "docker" else "podman-compose"
        return [*shlex.split(os.environ.get("COMPOSE", default)), "-p", self.project]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self, *, workers: int) -> None:
        self._run(*self.command, "up", "-d", "--scale", f"worker={workers}")

    def down(self, *, volumes: bool = False) -> None:
        # podman-compose takes the second and third worker for orphans.
        self._run(*self.command, "down", "--remove-orphans", *(["-v"] if volumes else []))

    def containers(self, service: str) -> list[str]:
        """Return the ids of the running containers, by labels that both compose tools set."""
        wanted = {"project": self.project, "service": service}
        filters = [
            f"--filter=label=com.docker.compose.{name}={value}" for name, value in wanted.items()
        ]
        return self._run(self.container, "ps", "-q", *filters).split()

    def kill(self, container: str) -> None:
        self.signal(container, "KILL")

    def signal(self, container: str, name: str) -> None:
        """Send a signal to the first process, which cannot refuse KILL and STOP from outside."""
        self._run(self.container, "kill", f"--signal={name}", container)

    def stop(self, container: str) -> int:
        """Stop a container and return its exit code: 0 for a graceful end, 137 after a kill."""
        self._run(self.container, "stop", "--time=60", container)
        return int(self._run(self.container, "inspect", "-f", "{{.State.ExitCode}}", container))

    def python(self, container: str, code: str) -> str:
        """Run Python code in a container and return its output."""
        return self._run(self.container, "exec", container, "python", "-c", code)

    def hostname(self, container: str) -> str:
        return self._run(self.container, "inspect", "-f", "{{.Config.Hostname}}", container).strip()

    def _run(self, *command: str) -> str:
        """Run a command. Raises AssertionError with its output when it fails."""
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PORT": str(self.port)},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}\n{result.stderr}"
        return result.stdout
