"""API keys: random secrets, of which the service knows the SHA-256 only, and their rights."""

import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta

SECRET_PREFIX = "fal_"  # lets scanners recognise a key in a commit
SECRET_BYTES = 32  # random; a guess needs no slower hash than SHA-256
NAME = r"[A-Za-z0-9._-]{1,64}"  # part of Redis keys, and of logs
SHA256 = r"[0-9a-f]{64}"


class Role(StrEnum):
    USER = "user"  # sees its own jobs, responses, files and batches
    ADMIN = "admin"  # sees all of them, and operates the service


class ApiKey(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One entry of the file of keys."""

    name: Annotated[str, Meta(pattern=rf"^{NAME}\Z")]  # owns what the key submits
    sha256: Annotated[str, Meta(pattern=rf"^{SHA256}\Z")]  # of the secret, in hex
    role: Role = Role.USER
    created_at: Annotated[datetime, Meta(tz=True)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request; without keys, every client is an admin without a name."""

    name: str | None = None  # of its key
    is_admin: bool = True

    @classmethod
    def of(cls, key: ApiKey) -> "Caller":
        return cls(key.name, key.role is Role.ADMIN)

    @property
    def sees(self) -> str | None:
        """Return the owner whose jobs, files and batches the caller sees; None: of all owners."""
        return None if self.is_admin else self.name


class KeyRing:
    """The keys that the service accepts."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = [(bytes.fromhex(key.sha256), key) for key in keys]

    def find(self, secret: str) -> ApiKey | None:
        """Return the key of a secret, after the same comparisons for every secret."""
        digest, found = sha256(secret.encode()).digest(), None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found


def new_secret() -> str:
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest_of(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def is_name(text: str) -> bool:
    return re.fullmatch(NAME, text) is not None
