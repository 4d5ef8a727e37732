"""How a job was made from another one, which model ran a job, and what a replay found."""

from collections.abc import Sequence
from enum import StrEnum
from itertools import zip_longest

import msgspec


class OriginKind(StrEnum):
    CONTINUE = "continue"
    FORK = "fork"
    REPLAY = "replay"
    REUSE = "reuse"


class Origin(msgspec.Struct, frozen=True):
    kind: OriginKind
    job_id: str  # of the job that it was made from, or whose tokens it takes


class ModelRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The worker and the model of the last run of a job."""

    worker: str
    model: str
    card_hash: str
    adapter: str | None = None  # its version: a name, or `RuntimeAdapter.version`


class TokenDifference(msgspec.Struct, frozen=True, kw_only=True):
    """The first token in which a replay differs; None behind the end of a sequence."""

    sequence: int
    index: int
    token_id: int | None
    replayed_token_id: int | None


class ReplayVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a replay has the tokens of its source, and the runs of both."""

    identical: bool
    first_difference: TokenDifference | None
    source: ModelRun | None  # None from workers that do not report it
    replay: ModelRun


class ReplayedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run that a job repeats."""

    token_ids: list[list[int]]  # of each sequence
    run: ModelRun | None

    def compare(self, token_ids: Sequence[Sequence[int]], run: ModelRun) -> ReplayVerdict:
        """Return the verdict about the repeated run and its tokens."""
        difference = next(
            (
                TokenDifference(sequence=sequence, index=index, token_id=old, replayed_token_id=new)
                for sequence, pair in enumerate(zip(self.token_ids, token_ids, strict=True))
                for index, (old, new) in enumerate(zip_longest(*pair))
                if old != new
            ),
            None,
        )
        return ReplayVerdict(
            identical=difference is None,
            first_difference=difference,
            source=self.run,
            replay=run,
        )
