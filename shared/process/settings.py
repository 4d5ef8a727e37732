"""Load the settings of a process: environment variables, overridden by flags of the same name.

An invalid value is reported in one line that names the setting, the value and the rule.
"""

import re
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import SettingsError

ENV_PREFIX = "FALCONER_"
SUBJECT = re.compile(r"^(Input|String|Value) should")
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://[^/]+:[0-9]+")


class ProcessSettings(BaseSettings):
    """Base class of the settings; field `max_rows` is read from `FALCONER_MAX_ROWS`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, protected_namespaces=()
    )


S = TypeVar("S", bound=ProcessSettings)


def load_settings(settings_class: type[S], flags: dict[str, Any] | None = None) -> S:
    """Return the settings; `flags` that are not None override the environment.

    Raises SettingsError for the first invalid value.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return settings_class(**given)
    except ValidationError as error:
        raise SettingsError(_describe(error)) from error


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    flag, variable = "--" + name.replace("_", "-"), ENV_PREFIX + name.upper()
    rule = SUBJECT.sub("must", first["msg"].removeprefix("Value error, "))
    if variable.endswith("_PORT") and SERVICE_LINK.fullmatch(str(first["input"])):
        rule = _service_link_rule(variable)
    return f"{flag} (or {variable}) = {first['input']!r}: {rule}"


def _service_link_rule(variable: str) -> str:
    """Explain a value such as `tcp://10.0.0.1:8000`, which the user did not write."""
    service = variable.removesuffix("_PORT").lower().replace("_", "-")
    return (
        f"Kubernetes sets this variable because a Service is named {service!r}: "
        f"set enableServiceLinks: false in the pod, rename the Service or set {variable} yourself"
    )
