"""Batches in Redis: their state, and the lease by which one replica at a time runs each of them."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from redis.asyncio import Redis

from shared.batches.ids import PageRequest, new_id, page_of_ids
from shared.batches.status import BatchStatus
from shared.errors import Conflict, QueueFull
from shared.queue.enqueued import IdempotencyKey
from shared.queue.keys import ACTIVE_BATCHES_MAX, FILE_TTL_S, Keys
from shared.queue.scripts import Script, ScriptArg, Scripts

PREFIX = "batch_"
LEASE_S = 10.0
RETRY_AFTER_S = 60
READ_AT_ONCE = 100  # batches


CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)


class BatchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for. Times are Unix seconds."""

    id: str
    endpoint: str
    completion_window: str
    input_file_id: str
    output_file_id: str  # the files exist once the batch has ended, if they are not empty
    error_file_id: str
    metadata: dict[str, str] | None
    created_at: int
    expires_at: int
    output_ttl_s: int
    owner: str | None = None  # name of the API key that created it


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it is now."""

    spec: BatchSpec
    status: BatchStatus
    times: dict[str, int]  # of each status that the batch had, such as `in_progress_at`
    counts: dict[str, int]  # lines, tokens and bytes, see `batch_state.lua`
    model: str | None
    errors: bytes | None  # JSON
    final: BatchStatus | None


@dataclass(frozen=True, slots=True)
class BatchLease:
    """The right to run a batch."""

    batch_id: str
    fencing_token: str


@dataclass(frozen=True, slots=True)
class LineResult:
    """The result of one line, as it goes into the output file or the error file."""

    line: int  # from 0
    is_answer: bool
    data: bytes  # with a line break
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, from 0, and where it begins in bytes."""

    line: int = 0
    offset: int = 0


@dataclass(slots=True)
class BatchStore:
    """The batches of one queue."""

    redis: Redis
    keys: Keys
    owner: str | None = None  # of the batches that are found; None: of all owners
    _scripts: Scripts = field(init=False)

    def __post_init__(self) -> None:
        self._scripts = Scripts(self.redis, self.keys)

    def seen_by(self, owner: str | None) -> "BatchStore":
        """Return a view that finds the batches of this owner only; None: of all owners."""
        view = copy.copy(self)
        view.owner = owner
        return view

    # -- for clients -----------------------------------------------------------------------------

    async def create(self, spec: BatchSpec, key: IdempotencyKey | None = None) -> str:
        """Add a batch, which any replica may run; return its id, or that of its key's first batch.

        Raises QueueFull, and Conflict for a key with another body.
        """
        ttl_s = spec.expires_at - spec.created_at + FILE_TTL_S
        packed = msgspec.msgpack.encode(spec)
        key = key or IdempotencyKey("", "")
        args = (spec.id, packed, 1000 * ttl_s, key.digest, key.body_digest, spec.owner or "")
        verdict: bytes = await self._scripts.run(Script.CREATE_BATCH, *args)
        if verdict == b"conflict":
            raise Conflict("Idempotency-Key was already used with a different request body")
        if verdict == b"full":
            raise QueueFull(
                f"at most {ACTIVE_BATCHES_MAX} batches may run at a time, try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        return verdict.decode()

    async def get(self, batch_id: str) -> Batch | None:
        [batch] = await self._read([batch_id])
        return None if batch is None or self.owner not in (None, batch.spec.owner) else batch

    async def _read(self, ids: Iterable[str]) -> list[Batch | None]:
        async with self.redis.pipeline(transaction=False) as pipe:
            for one in ids:
                pipe.hgetall(self.keys.batch(one))
            return [decode_batch(fields) for fields in await pipe.execute()]

    async def page(self, request: PageRequest) -> tuple[list[Batch], bool]:
        """Return a page of batches, and whether further batches follow."""
        found: list[Batch] = []
        after = request.after
        key = self.keys.batches if self.owner is None else self.keys.batches_of(self.owner)
        while True:
            part = PageRequest(READ_AT_ONCE, after, request.oldest_first)
            ids = await page_of_ids(self.redis, key, part)
            for batch_id, batch in zip(ids, await self._read(ids) if ids else [], strict=True):
                if batch is not None:
                    found.append(batch)
                elif self.owner is not None:
                    await self.redis.zrem(key, batch_id)  # it has expired
            if len(found) > request.limit or len(ids) < READ_AT_ONCE:
                return found[: request.limit], len(found) > request.limit
            after = ids[-1]

    async def cancel(self, batch_id: str) -> bool:
        """Ask the owner of a batch to end it; return False if it ends or has ended already."""
        return await self._move(batch_id, "", BatchStatus.CANCELLING, CANCELLABLE)

    async def remove_expired(self) -> int:
        """Delete what is left of batches that have expired; return their number."""
        num_removed, after = 0, None
        while True:
            request = PageRequest(READ_AT_ONCE, after, oldest_first=True)
            ids = await page_of_ids(self.redis, self.keys.batches, request)
            if not ids:
                return num_removed
            for batch_id, batch in zip(ids, await self._read(ids), strict=True):
                if batch is None:
                    await self.redis.zrem(self.keys.batches, batch_id)
                    num_removed += 1
            after = ids[-1]

    # -- for the owner of a lease ----------------------------------------------------------------

    async def claim(self) -> BatchLease | None:
        """Lease a batch without an owner; None if there is none."""
        reply = await self._scripts.run(Script.CLAIM_BATCH, round(1000 * LEASE_S))
        return BatchLease(reply[0].decode(), reply[1].decode()) if reply else None

    async def renew(self, lease: BatchLease, lease_s: float = LEASE_S) -> BatchStatus | None:
        """Extend the lease, or end it with 0; return the status, None if the lease is lost."""
        reply = await self._scripts.run(
            Script.RENEW_BATCH, lease.batch_id, lease.fencing_token, round(1000 * lease_s)
        )
        return BatchStatus(reply.decode()) if reply else None

    async def append(
        self, lease: BatchLease, spec: BatchSpec, results: Sequence[LineResult], reached: Place
    ) -> BatchStatus | None:
        """Write results, each line once; every line before `reached` has one then.

        Returns the status of the batch, None if the lease is lost.
        """
        args: list[ScriptArg] = []
        for one in results:
            args += [one.line, "1" if one.is_answer else "0", one.data]
            args += [one.prompt_tokens, one.completion_tokens, one.cached_tokens]
        reply = await self._scripts.run(
            Script.APPEND_RESULTS,
            lease.batch_id,
            lease.fencing_token,
            spec.output_file_id,
            spec.error_file_id,
            reached.line,
            reached.offset,
            1000 * (spec.expires_at - spec.created_at + FILE_TTL_S),
            *args,
        )
        return BatchStatus(reply.decode()) if reply else None

    async def lines_with_results(self, batch_id: str) -> bytes:
        """Return a bitmap; the first line is the highest bit of the first byte."""
        bitmap: bytes | None = await self.redis.get(self.keys.batch_lines(batch_id))
        return bitmap or b""

    async def move(
        self, lease: BatchLease, status: BatchStatus, earlier: Sequence[BatchStatus], **fields: Any
    ) -> bool:
        """Change the status; return False if the lease is lost or the status is not `earlier`."""
        return await self._move(lease.batch_id, lease.fencing_token, status, earlier, **fields)

    async def _move(
        self,
        batch_id: str,
        token: str,
        status: BatchStatus,
        earlier: Sequence[BatchStatus],
        **fields: Any,
    ) -> bool:
        ttl_ms = str(1000 * FILE_TTL_S) if status.is_final else ""
        pairs = [part for pair in fields.items() for part in pair]
        args = [batch_id, token, status, " ".join(earlier), ttl_ms, *pairs]
        return bool(await self._scripts.run(Script.MOVE_BATCH, *args))


def new_spec_ids() -> dict[str, str]:
    """Return the ids of a new batch and of its two files."""
    return {
        "id": new_id(PREFIX),
        "output_file_id": new_id("file-"),
        "error_file_id": new_id("file-"),
    }


def decode_batch(fields: dict[bytes, bytes]) -> Batch | None:
    """Decode the hash of a batch; None without it."""
    if not fields:
        return None
    values = {name.decode(): value for name, value in fields.items()}
    spec = msgspec.msgpack.decode(values.pop("spec"), type=BatchSpec)
    status = BatchStatus(values.pop("status").decode())
    model, errors, final = (values.pop(name, None) for name in ("model", "errors", "final"))
    numbers = {name: int(value) for name, value in values.items()}
    return Batch(
        spec=spec,
        status=status,
        times={name: value for name, value in numbers.items() if name.endswith("_at")},
        counts={name: value for name, value in numbers.items() if not name.endswith("_at")},
        model=None if model is None else model.decode(),
        errors=errors,
        final=None if final is None else BatchStatus(final.decode()),
    )
