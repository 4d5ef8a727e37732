"""Dockerfiles and the compose file agree with the settings. `compose_stack.py` runs the images."""

import re
from typing import Any

import pytest
import yaml

from api.settings import ApiSettings
from shared.process.allocator import HUGE_PAGES
from shared.process.settings import ENV_PREFIX, ProcessSettings
from tests.deploy.manifests import ROOT
from worker.settings import WorkerSettings

SETTINGS: dict[str, type[ProcessSettings]] = {"api": ApiSettings, "worker": WorkerSettings}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
every_process = pytest.mark.parametrize("process", SETTINGS)


def dockerfile(process: str) -> str:
    return (ROOT / "deploy" / f"{process}.Dockerfile").read_text()


def variables(process: str) -> dict[str, str]:
    """Return Falconer's variables that the image and the compose file set."""
    found = dict(re.findall(r"\b(FALCONER_\w+)=(\S+)", dockerfile(process)))
    found |= COMPOSE[process]["environment"]
    return {name: value for name, value in found.items() if name.startswith(ENV_PREFIX)}


@every_process
def test_images_set_only_settings(process: str) -> None:
    known = {ENV_PREFIX + name.upper() for name in SETTINGS[process].model_fields}
    assert set(variables(process)) <= known


def test_the_image_of_the_worker_asks_for_huge_pages() -> None:
    for name, value in HUGE_PAGES.items():
        assert f" {name}={value} " in dockerfile("worker")


@every_process
def test_an_image_exposes_the_port_that_it_probes(process: str) -> None:
    text = dockerfile(process)
    (probed,) = re.findall(r'probe\.py", "(\w+)"\]', text)
    assert re.findall(r"^EXPOSE (\d+)$", text, flags=re.MULTILINE) == [variables(process)[probed]]


@every_process
def test_a_process_is_the_first_of_its_container_and_has_a_numeric_user(process: str) -> None:
    text = dockerfile(process)
    assert f'ENTRYPOINT ["falconer", "{process}"]' in text
    assert re.search(r"^USER \d{4,}:\d+$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("service", ["api", "worker", "worker-gpu"])
def test_containers_have_a_read_only_root_and_no_capabilities(service: str) -> None:
    one = COMPOSE[service]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in one["security_opt"]


@every_process
def test_a_stop_leaves_time_to_drain(process: str) -> None:
    values = variables(process)
    grace_s = float(
        values.get("FALCONER_GRACE_S", SETTINGS[process].model_fields["grace_s"].default)
    )
    assert int(COMPOSE[process]["stop_grace_period"].removesuffix("s")) >= grace_s + 10


def test_redis_is_configured_not_to_lose_jobs() -> None:
    command = COMPOSE["redis"]["command"]
    for option in (
        "--appendonly yes",
        "--appendfsync always",
        "--maxmemory 768mb",
        "--maxmemory-policy noeviction",
        "--dir /data",
    ):
        assert option in command
    assert COMPOSE["redis"]["volumes"] == ["redis-data:/data"]


def test_ports_are_published_on_loopback_by_default() -> None:
    for name, service in COMPOSE.items():
        for port in service.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${BIND:-127.0.0.1}:")), name
