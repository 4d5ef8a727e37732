"""Prints what Falconer needs with the given extras, one requirement per line, without itself.

Lets an image keep its dependencies in a layer that only pyproject.toml and the lock can change.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Raises KeyError for an extra that is not there."""
    project = tomllib.loads(pyproject.read_text())["project"]
    wanted: list[str] = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return wanted


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])))
