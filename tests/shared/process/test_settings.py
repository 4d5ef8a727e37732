"""Settings from the environment and from flags, and the error for an invalid value."""

from enum import StrEnum
from typing import Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from shared.errors import SettingsError
from shared.process.cli_options import SettingsCommand
from shared.process.settings import ProcessSettings, load_settings


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class ExampleSettings(ProcessSettings):
    port: int = Field(8000, description="A port.")
    metrics_port: int | None = Field(None, description="Another port.")
    max_rows: int = Field(32, ge=1, description="Most rows.")
    name: str | None = Field(None, description="A name.")
    mode: Literal["fast", "slow"] = Field("fast", description="How.")
    colour: Colour = Field(Colour.RED, description="Which.")


def test_a_flag_overrides_the_environment_and_the_environment_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings(ExampleSettings).max_rows == 32
    monkeypatch.setenv("FALCONER_MAX_ROWS", "8")
    assert load_settings(ExampleSettings, {"max_rows": None}).max_rows == 8
    assert load_settings(ExampleSettings, {"max_rows": "4"}).max_rows == 4


def test_an_empty_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALCONER_MAX_ROWS", "")
    assert load_settings(ExampleSettings).max_rows == 32


def test_an_invalid_value_is_reported_with_flag_variable_value_and_rule() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(ExampleSettings, {"max_rows": "0"})
    assert caught.value.message == (
        "--max-rows (or FALCONER_MAX_ROWS) = '0': must be greater than or equal to 1"
    )


@pytest.mark.parametrize(
    ("variable", "service"),
    [("FALCONER_PORT", "falconer"), ("FALCONER_METRICS_PORT", "falconer-metrics")],
)
def test_a_port_variable_of_kubernetes_is_explained(
    variable: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "tcp://10.0.0.1:8000")
    with pytest.raises(SettingsError) as caught:
        load_settings(ExampleSettings)
    assert "\n" not in caught.value.message
    for part in (variable, "tcp://10.0.0.1:8000", f"a Service is named '{service}'"):
        assert part in caught.value.message
    assert "enableServiceLinks: false" in caught.value.message


def test_the_other_variables_of_a_service_named_falconer_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP"):
        monkeypatch.setenv(f"FALCONER_{name}", "tcp://10.0.0.1:8000")
    for name in ("PORT", "PROTO", "ADDR"):
        monkeypatch.setenv(f"FALCONER_PORT_8000_TCP_{name}", "8000")
    assert load_settings(ExampleSettings) == ExampleSettings()


@pytest.fixture
def cli() -> tuple[typer.Typer, list[ExampleSettings]]:
    seen: list[ExampleSettings] = []

    def run(settings: ExampleSettings) -> int:
        seen.append(settings)
        return 7

    app = typer.Typer()
    app.command("example")(SettingsCommand(ExampleSettings, run))
    return app, seen


def test_every_field_is_a_flag_and_the_exit_code_is_passed_on(
    cli: tuple[typer.Typer, list[ExampleSettings]],
) -> None:
    app, seen = cli
    flags = ["--max-rows", "3", "--name", "x", "--mode", "slow", "--colour", "blue"]
    assert CliRunner().invoke(app, flags).exit_code == 7
    assert seen == [ExampleSettings(max_rows=3, name="x", mode="slow", colour=Colour.BLUE)]


def test_help_shows_choices_variables_and_defaults(
    cli: tuple[typer.Typer, list[ExampleSettings]],
) -> None:
    app, _ = cli
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for part in ("fast|slow", "red|blue", "FALCONER_MAX_ROWS, default 32", "[FALCONER_NAME]"):
        assert part in text
