"""Variables of `make` reach the program unchanged, whatever characters they contain."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOSTILE = [
    "pa$word",
    "pa$$word",
    "$(HOME)",
    "${HOME}",
    "$(shell touch run)",
    "$(touch run)",
    "`touch run`",
    "\"quoted\" and 'quoted'",
    "a; touch run",
    "a && touch run",
    "hash#hash",
    "percent%d%%",
    "back\\slash\\",
    "two  spaces",
    "line\nbreak",
    "näme",
    "-x",
    "*",
    "a=b:=c",
]
FOURS = [[HOSTILE[(start + n) % len(HOSTILE)] for n in range(4)] for start in range(0, 18, 4)]
REPORT = """#!{python}
import json, os, sys
report = {{"argv": sys.argv[1:], "url": os.environ.get("FALCONER_REDIS_URL")}}
with open("/proc/%d/cmdline" % os.getppid()) as parent:
    report["parent"] = parent.read()
json.dump(report, open({out!r}, "w"))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with a ready environment, whose programs report their arguments."""
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("falconer", "python", "builder"):
        (programs / name).write_text(
            REPORT.format(python=sys.executable, out=str(tmp_path / "report.json"))
        )
        (programs / name).chmod(0o755)
    for stamp in (".torch", ".serve", ".dev"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def make(project: Path, goal: str, *arguments: str, **env: str) -> dict[str, object]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    subprocess.run(
        ["make", "--no-print-directory", goal, *arguments],
        cwd=project,
        env=clean | env,
        check=True,
        timeout=120,
    )
    assert not (project / "run").exists()
    report: dict[str, object] = json.loads((project / "report.json").read_text())
    return report


@pytest.mark.parametrize("values", FOURS)
@pytest.mark.parametrize("origin", ["argument", "environment"])
def test_serve_gets_values_unchanged(values: list[str], origin: str, project: Path) -> None:
    given = dict(zip(("REDIS_URL", "PORT", "MODEL", "WORKERS"), values, strict=True))
    if origin == "argument":
        report = make(project, "serve", *(f"{name}={value}" for name, value in given.items()))
    else:
        report = make(project, "serve", **given)
    options = [f"--{name}={given[name.upper()]}" for name in ("port", "model", "workers")]
    assert report["argv"] == ["serve", *options]
    assert report["url"] == given["REDIS_URL"]


def test_serve_gets_no_empty_values(project: Path) -> None:
    assert make(project, "serve", "PORT=", REDIS_URL="") | {"parent": ""} == {
        "argv": ["serve"],
        "url": None,
        "parent": "",
    }


def test_a_password_from_the_environment_is_in_no_process_list(project: Path) -> None:
    report = make(project, "serve", REDIS_URL="redis://:hush@h")
    assert "make" in str(report["parent"])
    assert "hush" not in f"{report['parent']}{report['argv']}"


@pytest.mark.parametrize("values", FOURS)
def test_chaos_and_bench_get_values_unchanged(values: list[str], project: Path) -> None:
    seed, jobs, faults, model = values
    report = make(project, "chaos", f"SEED={seed}", f"FAULTS={faults}", JOBS=jobs)
    options = [f"--seed={seed}", f"--jobs={jobs}", f"--faults={faults}"]
    assert report["argv"] == ["-m", "tests.chaos", *options]
    report = make(project, "bench-engine", f"MODEL={model}")
    assert report["argv"] == ["-m", "bench.peers.compare", f"--model={model}"]


@pytest.mark.parametrize("value", HOSTILE)
def test_the_smoke_test_gets_its_folder_unchanged(value: str, project: Path) -> None:
    assert make(project, "smoke-7b", f"SMOKE_DIR={value}")["argv"] == [
        "-m",
        "bench.service.smoke",
        value,
    ]


@pytest.mark.parametrize("values", FOURS)
def test_image_builds_get_values_unchanged(values: list[str], project: Path) -> None:
    image, device, index, _ = values
    names = ("PYTHON_IMAGE", "DEVICE", "TORCH_CPU_INDEX")
    given = dict(zip(names, (image, device, index), strict=True))
    arguments = [f"{name}={value}" for name, value in given.items()]
    argv = make(project, "images", "IMAGE_BUILD=.venv/bin/builder $PWD", *arguments)["argv"]
    assert isinstance(argv, list)
    built = [part for name in names for part in ("--build-arg", f"{name}={given[name]}")]
    assert argv[:7] == [str(project), *built]


def test_a_container_program_may_have_a_space_in_its_path(project: Path) -> None:
    program = project / "my tools" / "podman"
    program.parent.mkdir()
    shutil.copy(project / ".venv" / "bin" / "builder", program)
    argv = make(project, "images", f"CONTAINER={program}")["argv"]
    assert isinstance(argv, list)
    assert argv[:3] == ["build", "--format", "docker"]
