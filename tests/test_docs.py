"""The documentation names what there is."""

import re
from pathlib import Path

import pytest

from api.settings import ApiSettings
from serve.settings import ServeSettings
from shared.process.settings import ENV_PREFIX, ProcessSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parent.parent
PACKAGES = ("api", "bench", "serve", "shared", "training", "worker")


def modules() -> set[str]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    named = {str(path.relative_to(ROOT)) for path in files if path.read_text().strip()}
    return named | {"falconer.py"}


def test_the_architecture_has_one_line_for_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(modules())


def test_every_relative_link_in_the_documents_leads_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} → {target}"


def settings_table(settings_class: type[ProcessSettings]) -> str:
    rows = ["| flag | variable | default | what |", "| --- | --- | --- | --- |"]
    for name, field in settings_class.model_fields.items():
        flag, variable = "--" + name.replace("_", "-"), ENV_PREFIX + name.upper()
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{flag}` | `{variable}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("settings_class", [ServeSettings, ApiSettings, WorkerSettings])
def test_the_settings_page_tells_every_setting_as_it_is(
    settings_class: type[ProcessSettings],
) -> None:
    assert settings_table(settings_class) in (ROOT / "docs" / "settings.md").read_text()
