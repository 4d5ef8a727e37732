"""Make a typer command from a settings class, with one flag per field."""

from collections.abc import Callable
from enum import Enum
from inspect import Parameter, Signature
from types import NoneType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from shared.process.settings import ENV_PREFIX, ProcessSettings, load_settings

S = TypeVar("S", bound=ProcessSettings)


class SettingsCommand(Generic[S]):
    """Read flags and environment, call `run` with the settings, and exit with the code it returns.

    Register an instance with `typer.Typer.command`. typer takes the flags from `__signature__`.
    They reach pydantic as text, so a wrong value has the same error in a flag and in a variable.
    """

    def __init__(self, settings_class: type[S], run: Callable[[S], int]) -> None:
        self._settings_class = settings_class
        self._run = run
        fields = settings_class.model_fields.items()
        self.__signature__ = Signature([_parameter(name, field) for name, field in fields])
        self.__annotations__: dict[str, Any] = {}  # typer before 0.29 demands the attribute

    def __call__(self, **flags: str | bool | None) -> None:
        raise typer.Exit(self._run(load_settings(self._settings_class, flags)))


def _parameter(name: str, field: FieldInfo) -> Parameter:
    default = field.get_default(call_default_factory=False)
    has_default = default is not None and default is not False
    variable = f"{ENV_PREFIX}{name.upper()}" + (f", default {default}" if has_default else "")
    option = typer.Option(
        None,
        "--" + name.replace("_", "-"),
        help=f"{field.description} \\[{variable}]",
        metavar=None if field.annotation is bool else _metavar(field.annotation),
        show_default=False,
    )
    kind = bool if field.annotation is bool else str  # a bool is a flag without a value
    return Parameter(name, Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)


def _metavar(annotation: Any) -> str:
    """Return what the help shows behind the flag: the name of the type, or the choices."""
    choices = [choice for choice in get_args(annotation) if choice is not NoneType]
    if get_origin(annotation) is Literal:
        return "|".join(map(str, choices))
    if choices:
        return _metavar(choices[0])
    if issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    return str(annotation.__name__)
