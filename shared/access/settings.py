"""The settings that decide about access: `falconer serve` passes them on to the api."""

from ipaddress import ip_address
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from shared.process.settings import ProcessSettings


class AccessSettings(ProcessSettings):
    keys_file: Path | None = Field(
        None, description="File of API keys; see docs/guides/keys.md. Unset: no keys."
    )
    insecure: bool = Field(
        False, description="Without keys, serve other machines too: every client is an admin."
    )

    @field_validator("host", check_fields=False)
    @classmethod
    def _check_host(cls, value: str, info: ValidationInfo) -> str:
        """Without keys, only processes of this machine may connect."""
        is_open = info.data.get("keys_file") is None and not info.data.get("insecure")
        if is_open and not is_loopback(value):
            raise ValueError(
                "must be a loopback address such as 127.0.0.1 without API keys: "
                "set --keys-file (or FALCONER_KEYS_FILE), or --insecure (or FALCONER_INSECURE=true)"
            )
        return value


def is_loopback(host: str) -> bool:
    """Return whether only processes of this machine reach an address; a name must be localhost."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
