"""The reference pages agree with the code that they describe."""

import re
from pathlib import Path

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from api.metrics import Metrics
from falconer.cli import app
from falconer.client import JobInfo, RequestFields
from shared.protocol import WorkerInfo
from shared.registry.worker_registry import LoadingWorker
from tests.docs.tables import REFERENCE, ROOT, TABLES, openapi, pages, with_tables
from worker.engine_thread import EngineStats
from worker.health.metrics import WorkerMetrics

FIELDS = re.compile(r"<!-- fields: ([\w, ]+) -->\n((?:[- ] .*\n)+)")
NAME = re.compile(r"`\.?(\w+)`")
# Documented in prose: the parts of a message, and a job without two of its fields.
IN_PROSE = {"TextPart", "JobSummary", "OriginKind", "JobStatus", "BatchStatus", "GpuInfo"}


def http_page() -> str:
    return (REFERENCE / "http.md").read_text()


def field_lists() -> list[tuple[str, str]]:
    """Return the schemas of each list of fields, and the list."""
    pages = (http_page(), (REFERENCE / "openai.md").read_text())
    return [found for page in pages for found in FIELDS.findall(page)]


def documented_fields() -> dict[str, set[str]]:
    """Return the names in each list of fields, by the schemas that it documents."""
    return {names: set(NAME.findall(rows)) for names, rows in field_lists()}


def fields_of(schema: str) -> set[str]:
    if schema in (structs := {"WorkerInfo": WorkerInfo, "LoadingWorker": LoadingWorker}):
        return {field.name for field in msgspec.structs.fields(structs[schema])}
    return set(openapi()["components"]["schemas"][schema]["properties"])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_match_the_code(page: Path) -> None:
    assert page.read_text() == with_tables(page.read_text()), "run python -m tests.docs"


def test_each_table_is_on_one_page() -> None:
    marked = re.findall(r"<!-- table: ([\w ]+) -->", "".join(pages().values()))
    assert sorted(marked) == sorted(TABLES)


@pytest.mark.parametrize("names", documented_fields())
def test_a_list_of_fields_names_every_field(names: str) -> None:
    fields = set().union(*(fields_of(schema) for schema in names.split(", ")))
    assert fields <= documented_fields()[names]


def test_every_schema_of_the_interface_is_documented() -> None:
    documented = {schema for names in documented_fields() for schema in names.split(", ")}
    assert set(openapi()["components"]["schemas"]) <= documented | set(TABLES) | IN_PROSE


def test_every_status_code_has_a_meaning() -> None:
    operations = [operation for path in openapi()["paths"].values() for operation in path.values()]
    codes = {code for operation in operations for code in operation["responses"]}
    explained = set(re.findall(r"^- (\d{3}): ", http_page(), flags=re.MULTILINE))
    assert {code for code in codes if int(code) >= 400} == explained


def metrics_on_the_page(heading: str) -> dict[str, str]:
    """Return the type of each metric in one section of the page."""
    _, section = (REFERENCE / "metrics.md").read_text().split(f"## {heading}\n", 1)
    rows = re.findall(r"^- `(\w+)` \((\w+)\)", section.split("\n## ")[0], flags=re.MULTILINE)
    return dict(rows)


def exported_metrics(text: bytes) -> dict[str, str]:
    """Return the type of each metric in a scrape, by the name that Prometheus stores."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text.decode())
        if not family.name.endswith("_created")
    }


def test_the_metrics_page_has_every_metric_of_the_api() -> None:
    assert metrics_on_the_page("Api") == exported_metrics(Metrics().text())


def test_the_metrics_page_has_every_metric_of_a_worker() -> None:
    metrics = WorkerMetrics()
    metrics.watch_engine(EngineStats, total_kv_tokens=32, block_size=32)
    assert metrics_on_the_page("Worker") == exported_metrics(metrics.text())


def test_the_alerts_page_has_every_alert_with_its_severity() -> None:
    page = (REFERENCE / "alerts.md").read_text()
    rules = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yml").read_text())
    alerts = {
        rule["alert"]: rule["labels"]["severity"]
        for group in rules["groups"]
        for rule in group["rules"]
    }
    assert dict(re.findall(r"^## (Falconer\w+)\n\n`(\w+)`", page, flags=re.MULTILINE)) == alerts


def commands_on_the_page() -> list[str]:
    text = (REFERENCE / "commands.md").read_text()
    return re.findall(r"^### `falconer ([\w ]+)`", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", commands_on_the_page())
def test_a_command_has_every_option_that_its_section_names(command: str) -> None:
    _, section = (REFERENCE / "commands.md").read_text().split(f"### `falconer {command}`", 1)
    options = set(re.findall(r"`(--[\w-]+)", section.split("\n##")[0]))
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert options <= set(re.findall(r"--[\w-]+", result.output))


def test_every_make_target_is_on_the_commands_page() -> None:
    targets = re.findall(r"^([a-z][\w-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    page = (REFERENCE / "commands.md").read_text()
    assert [target for target in targets if f"`make {target}" not in page] == []


def test_the_client_has_every_field_of_requests_and_jobs() -> None:
    """A new field is missing in `falconer/client/models.py`."""
    requests = fields_of("ChatRequest") - {"prompt", "messages", "stream"}
    assert set(RequestFields.__annotations__) == requests
    assert {field.name for field in msgspec.structs.fields(JobInfo)} == fields_of("JobView")
