"""The sizing page and the overlays' requests are computed from the models' shapes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ByteSize, TypeAdapter

from tests.deploy.manifests import OVERLAYS, ROOT
from worker.engine import EngineConfig, Executor
from worker.engine.memory.host_forecast import (
    PROCESS_BYTES,
    HostForecast,
    LoadVariant,
    forecast_host,
    meta_model,
)
from worker.engine.memory.kv_cache_size import forecast_gpu
from worker.model.checkpoint.random_checkpoint import config_fields
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.config import ModelConfig

GIB = 2**30
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTH = 1024
ROW = re.compile(r"^\| (\d+) GiB \|[^|]*\|(.+)\|$", flags=re.MULTILINE)
CPU_ROW = re.compile(r"^\| falcon-(rw|7b|11b|40b)(?:-1b)? \|(.+)\|$", flags=re.MULTILINE)
CPU_VARIANTS = (
    LoadVariant(torch.float32, Executor.OPENVINO),
    LoadVariant(torch.float32, Executor.TORCH),
    LoadVariant(torch.bfloat16, Executor.OPENVINO),
    LoadVariant(torch.bfloat16, Executor.TORCH),
)
# Host memory of CUDA, its libraries and torch: an estimate, not measured.
CUDA_PROCESS_BYTES = 6 * GIB


def published(like: str) -> ModelConfig:
    return ModelConfig.from_dict(config_fields(like, full_size=True))


def rows_that_fit(like: str, memory_gib: int, num_tokens: int) -> int:
    try:
        plan = forecast_gpu(
            published(like),
            EngineConfig(max_rows=10**6, max_step_tokens=10**6),
            dtype=torch.bfloat16,
            memory_bytes=memory_gib * GIB,
        )
    except ValueError:  # the weights alone do not fit
        return 0
    return plan.rows_of(num_tokens)


def sizing_page() -> str:
    return (ROOT / "docs" / "reference" / "sizing.md").read_text()


def table() -> list[tuple[int, list[int]]]:
    return [
        (int(memory), [int(cell.replace(",", "")) for cell in cells.split("|")])
        for memory, cells in ROW.findall(sizing_page())
    ]


@pytest.mark.parametrize(("memory_gib", "documented"), table())
def test_the_page_states_how_many_rows_fit(memory_gib: int, documented: list[int]) -> None:
    fits = [rows_that_fit(like, memory_gib, LENGTH) for like in ("7b", "40b")]
    assert documented == fits


def test_the_page_has_a_table() -> None:
    assert len(table()) >= 5
    assert len(CPU_ROW.findall(sizing_page())) == 4


@pytest.mark.parametrize(("like", "cells"), CPU_ROW.findall(sizing_page()))
def test_the_page_states_the_memory_of_a_worker_on_cpus(like: str, cells: str) -> None:
    model = meta_model(published(like))
    config = EngineConfig.for_machine("cpu")
    needed = [forecast_host(variant, model, config, device=CPU) for variant in CPU_VARIANTS]
    documented = [f"{(PROCESS_BYTES + forecast.needed_bytes) / GIB:.1f}" for forecast in needed]
    if model.config.alibi:
        documented[0] = documented[2] = ""  # OpenVINO does not support it
    assert [cell.strip() for cell in cells.split("|")] == documented


def worker_container(path: Path) -> dict[str, Any]:
    [deployment] = [
        document
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == "Deployment"
    ]
    containers = deployment["spec"]["template"]["spec"]["containers"]
    [container] = [container for container in containers if container["name"] == "worker"]
    return dict(container)


def overlay_workers() -> list[Path]:
    """Return the worker of the base, with the bundled model, and the workers of the components."""
    k8s = ROOT / "deploy" / "k8s"
    return [k8s / "base/worker/worker.yaml", *sorted(k8s.glob("components/falcon-*/worker.yaml"))]


def needed_by(container: dict[str, Any]) -> HostForecast:
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    config = EngineConfig(max_rows=int(variables.get("FALCONER_MAX_ROWS") or 32))
    name = variables["FALCONER_MODEL"]
    if name == "tiny":
        model = meta_model(ModelConfig.from_checkpoint(bundled_checkpoint()))
        return forecast_host(CPU_VARIANTS[0], model, config, device=CPU)
    like = re.fullmatch(r"tiiuae/falcon-(\w+)-instruct", name)
    assert like is not None
    return forecast_host(CPU_VARIANTS[3], meta_model(published(like[1])), config, device=CUDA)


def parse_memory(quantity: str) -> int:
    return TypeAdapter(ByteSize).validate_python(quantity.replace("Gi", "GiB"))


@pytest.mark.parametrize("path", overlay_workers(), ids=lambda path: path.parent.name)
def test_an_overlay_requests_the_memory_of_its_worker(path: Path) -> None:
    container = worker_container(path)
    forecast = needed_by(container)
    process = PROCESS_BYTES + (0 if path.parent.name == "worker" else CUDA_PROCESS_BYTES)
    request = parse_memory(container["resources"]["requests"]["memory"])
    limit = parse_memory(container["resources"]["limits"]["memory"])
    assert process + forecast.needed_bytes <= request <= limit
    assert request < 2 * (process + forecast.needed_bytes) or request <= 2 * GIB


def test_every_overlay_with_a_model_is_tested() -> None:
    assert {path.parent.name for path in overlay_workers()} - {"worker"} <= set(OVERLAYS)
    assert len(overlay_workers()) == 3
