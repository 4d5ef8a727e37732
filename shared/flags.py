"""Turns a settings class into a typer command with one flag per field."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from shared.settings import ENV_PREFIX, ProcessSettings, load_settings

S = TypeVar("S", bound=ProcessSettings)


def settings_command(settings_class: type[S], run: Callable[[S], int]) -> Callable[..., None]:
    """A function typer can register: reads flags and environment, runs, exits with `run`'s code.

    Flags travel as text and pydantic converts them, so a wrong value gets the same one line
    whether it came from a flag or from the environment.
    """

    def command(**flags: Any) -> None:
        raise typer.Exit(run(load_settings(settings_class, flags)))

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(
                None,
                "--" + name.replace("_", "-"),
                help=f"{field.description or ''} \\[{ENV_PREFIX}{name.upper()}]",
                show_default=str(field.get_default(call_default_factory=False)),
            ),
            annotation=str | None,
        )
        for name, field in settings_class.model_fields.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
