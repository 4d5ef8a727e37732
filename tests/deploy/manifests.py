"""Render the Kubernetes overlays with kustomize, and read objects from them."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ("cpu-demo", "falcon-7b", "falcon-40b", "keda", "monitoring", "two-models")
RENDER_TIMEOUT_S = 60

Object = dict[str, Any]


def kustomize_command() -> list[str] | None:
    """Return the command of kubectl, or of kustomize itself."""
    kubectl = shutil.which("kubectl")
    if kubectl and "Kustomize Version" in output_of([kubectl, "version", "--client"]):
        return [kubectl, "kustomize"]
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    return None


def output_of(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=RENDER_TIMEOUT_S).stdout


@cache
def render(overlay: str) -> list[Object]:
    """Render an overlay; skip the test without kustomize."""
    command = kustomize_command()
    if command is None:
        pytest.skip("neither a kubectl of 1.24 or later nor kustomize is on the PATH")
    folder = ROOT / "deploy" / "k8s" / "overlays" / overlay
    result = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=RENDER_TIMEOUT_S
    )
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [rendered for rendered in render(overlay) if rendered["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Object:
    (found,) = (one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name)
    return found


def pods(overlay: str) -> Iterator[tuple[str, Object]]:
    """Yield name and pod spec of every Deployment and StatefulSet."""
    for owner in of_kind(overlay, "Deployment", "StatefulSet"):
        yield owner["metadata"]["name"], owner["spec"]["template"]["spec"]


def worker_deployments(overlay: str) -> list[Object]:
    """Return a Deployment for each model."""
    return [
        one
        for one in of_kind(overlay, "Deployment")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "worker"
    ]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def container(overlay: str, name: str) -> Object:
    """Return the container with the name of its Deployment."""
    (found,) = named(overlay, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    assert found["name"] == name
    return dict(found)


def environment(overlay: str, of: Object) -> dict[str, str | None]:
    """Return the container's variables; None for a variable from a Secret."""
    variables: dict[str, str | None] = {}
    for source in of.get("envFrom", []):
        variables |= named(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    return variables | {one["name"]: one.get("value") for one in of.get("env", [])}
