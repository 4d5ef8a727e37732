"""Turns a settings class into a typer command with one flag per field."""

import inspect
from collections.abc import Callable
from enum import Enum
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from shared.process.settings import ENV_PREFIX, ProcessSettings, load_settings

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
            default=_option(name, field),
            annotation=str | None,
        )
        for name, field in settings_class.model_fields.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _option(name: str, field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=False)
    said = f"{ENV_PREFIX}{name.upper()}" + ("" if default is None else f", default {default}")
    return typer.Option(
        None,
        "--" + name.replace("_", "-"),
        help=f"{field.description} \\[{said}]",
        metavar=_metavar(field.annotation),
        show_default=False,
    )


def _metavar(annotation: Any) -> str:
    """What stands behind the flag: a type's name, or the choices there are."""
    choices = [choice for choice in get_args(annotation) if choice is not NoneType]
    if get_origin(annotation) is Literal:
        return "|".join(map(str, choices))
    if choices:
        return _metavar(choices[0])
    if issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    return str(annotation.__name__)
