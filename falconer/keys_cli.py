"""Define `falconer keys`, which changes the file of API keys; a running api reads it again."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from shared.access.api_keys import NAME, ApiKey, Role, digest_of, is_name, new_secret
from shared.access.key_file import change_keys, read_keys
from shared.errors import FalconerError, SettingsError

FILE_VARIABLE = "FALCONER_KEYS_FILE"

keys = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")

File = Annotated[
    Path | None, typer.Option(help=f"File of API keys \\[{FILE_VARIABLE}].", show_default=False)
]
Name = Annotated[str, typer.Argument(help="Name of the key.", show_default=False)]


@keys.command("create")
def create(
    name: Name,
    file: File = None,
    role: Annotated[Role, typer.Option(help="Rights of the key.")] = Role.USER,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="The key is refused afterwards.")
    ] = None,
) -> None:
    """Add a key, and print it: only its SHA-256 is kept. The file is created if need be."""
    if not is_name(name):
        raise SettingsError(f"NAME must match {NAME}, got {name[:80]!r}")
    secret, now = new_secret(), datetime.now(UTC).replace(microsecond=0)
    key = ApiKey(
        name=name,
        sha256=digest_of(secret),
        role=role,
        created_at=now,
        expires_at=None if expires_in_days is None else now + timedelta(days=expires_in_days),
    )

    def added(present: list[ApiKey]) -> list[ApiKey]:
        if any(one.name == name for one in present):
            raise SettingsError(f"a key named {name!r} exists already; revoke it first")
        return [*present, key]

    change_keys(key_file(file), added)
    print(secret)


@keys.command("list")
def list_keys(file: File = None) -> None:
    """List the keys: name, role, and the times of creation and expiry."""
    for key in read_keys(key_file(file)):
        expiry = "-" if key.expires_at is None else key.expires_at.isoformat()
        created = "-" if key.created_at is None else key.created_at.isoformat()
        state = "  expired" if key.has_expired else ""
        print(f"{key.name}  {key.role}  {created}  {expiry}{state}")


@keys.command("revoke")
def revoke(names: Annotated[list[str], typer.Argument(help="Names.")], file: File = None) -> None:
    """Remove keys. Their jobs stay, and a new key of the same name sees them."""

    def without(present: list[ApiKey]) -> list[ApiKey]:
        missing = set(names) - {one.name for one in present}
        if missing:
            raise SettingsError(f"no key named {', '.join(map(repr, sorted(missing)))}")
        return [one for one in present if one.name not in names]

    path = key_file(file)
    read_keys(path)  # fails without the file
    change_keys(path, without)


def key_file(given: Path | None) -> Path:
    """Return the file of the option or of the variable. Raises FalconerError without both."""
    named = given or os.environ.get(FILE_VARIABLE)
    if not named:
        raise FalconerError(f"--file (or {FILE_VARIABLE}) must name the file of API keys")
    return Path(named)
