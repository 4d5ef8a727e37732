"""How a job was made from an ended one, and which model ran a job."""

from enum import StrEnum

import msgspec


class OriginKind(StrEnum):
    CONTINUE = "continue"
    FORK = "fork"


class Origin(msgspec.Struct, frozen=True):
    kind: OriginKind
    job_id: str  # of the ended job that the job was made from


class ModelRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model that the last run of a job used."""

    card_hash: str
    adapter: str | None = None  # its version: a name, or `RuntimeAdapter.version`
