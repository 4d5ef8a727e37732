"""The dashboard and the alerts use existing metrics."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import Metrics
from tests.deploy.manifests import ROOT
from worker.engine_thread import EngineStats
from worker.health.metrics import WorkerMetrics

MONITORING = ROOT / "deploy" / "monitoring"
METRIC = re.compile(r"\bfalconer_\w+")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def dashboard_expressions() -> Iterator[str]:
    dashboard = json.loads((MONITORING / "grafana" / "falconer.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def known_series() -> set[str]:
    """Return the names of all series that api and workers export."""
    worker = WorkerMetrics()
    worker.watch_engine(EngineStats, total_kv_tokens=32, block_size=32)
    text = Metrics().text() + worker.text()
    return {
        family.name + suffix
        for family in text_string_to_metric_families(text.decode())
        if not family.name.endswith("_created")
        for suffix in SUFFIXES.get(family.type, ())
    }


@pytest.mark.parametrize(
    "expression", [*dashboard_expressions(), *(one["expr"] for one in alerts())]
)
def test_an_expression_uses_existing_series(expression: str) -> None:
    asked = set(METRIC.findall(expression))
    assert asked <= known_series()
    assert asked or "up{" in expression


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for expression in dashboard_expressions() for name in METRIC.findall(expression)}
    hidden = {"falconer_computed_tokens_total"}  # for debugging a single worker
    for name in known_series() - hidden:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert any(one.startswith(family) for one in shown), name


def test_every_alert_has_a_summary_and_a_severity() -> None:
    for alert in alerts():
        assert alert["annotations"]["summary"].endswith(".")
        assert alert["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize(
    "config", ["monitoring/prometheus.yml", "k8s/components/monitoring/prometheus.yml"]
)
def test_the_alerts_use_the_job_names_of_prometheus(config: str) -> None:
    scraped = yaml.safe_load((ROOT / "deploy" / config).read_text())["scrape_configs"]
    jobs = {one["job_name"] for one in scraped}
    asked = {job for one in alerts() for job in re.findall(r'job="([\w-]+)"', one["expr"])}
    assert asked == jobs
