"""The documentation names what there is."""

import re
from pathlib import Path

import pytest

from api.settings import ApiSettings
from serve.settings import ServeSettings
from shared.process.settings import ENV_PREFIX, ProcessSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parent.parent


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
