"""Settings from environment and flags, and the one line that a wrong one gets."""

from enum import StrEnum
from typing import Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from shared.errors import SettingsError
from shared.flags import settings_command
from shared.settings import ProcessSettings, load_settings


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class ExampleSettings(ProcessSettings):
    max_rows: int = Field(32, ge=1, description="Most rows.")
    name: str | None = Field(None, description="A name.")
    mode: Literal["fast", "slow"] = Field("fast", description="How.")
    colour: Colour = Field(Colour.RED, description="Which.")


def test_a_flag_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings(ExampleSettings).max_rows == 32
    monkeypatch.setenv("FALCONER_MAX_ROWS", "8")
    assert load_settings(ExampleSettings, {"max_rows": None}).max_rows == 8
    assert load_settings(ExampleSettings, {"max_rows": "4"}).max_rows == 4


def test_an_empty_variable_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALCONER_MAX_ROWS", "")
    assert load_settings(ExampleSettings).max_rows == 32


def test_a_wrong_value_is_named_with_flag_variable_value_and_rule() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(ExampleSettings, {"max_rows": "0"})
    assert caught.value.message == (
        "--max-rows (or FALCONER_MAX_ROWS) = '0': Input should be greater than or equal to 1"
    )


@pytest.fixture
def cli() -> tuple[typer.Typer, list[ExampleSettings]]:
    seen: list[ExampleSettings] = []

    def run(settings: ExampleSettings) -> int:
        seen.append(settings)
        return 7

    app = typer.Typer()
    app.command()(settings_command(ExampleSettings, run))
    return app, seen


def test_every_field_is_a_flag_and_the_exit_code_is_the_commands(
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
