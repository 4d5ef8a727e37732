"""docs/reference/redis-keys.md names every key and field, with the right type and TTL."""

import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path

from redis.asyncio import Redis

from shared.batches.batches import (
    BatchSpec,
    BatchStatus,
    BatchStore,
    LineResult,
    Place,
    new_spec_ids,
)
from shared.batches.files import FileProperties, FileStore
from shared.batches.lane import BatchLane
from shared.origin import OriginKind
from shared.protocol import Delta, Failed, JobError, JobStatus, encode
from shared.queue.claims import FreeCapacity
from shared.queue.enqueued import IdempotencyKey, Source
from shared.queue.job_queue import JobQueue
from shared.queue.keys import (
    BACKLOG_FIELDS,
    BATCH_FIELDS,
    DEAD_LETTERS_MAX,
    LISTED_MAX,
    LOADING_TTL_S,
    MIN_RECORD_TTL_S,
    MODEL_CARD_TTL_S,
    RECORD_FIELDS,
    REPLIES_MAX_ENTRIES,
    REPLIES_TTL_S,
    RESULT_TTL_S,
    UNFINISHED_JOB_TTL_S,
    WORKER_TTL_S,
    Keys,
)
from shared.queue.token_log import TokenLog
from shared.registry.adapter_registry import AdapterRegistry, AdapterSet
from shared.registry.worker_registry import LoadingWorker, Registry
from tests.factories import make_card, make_job, make_worker_info

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/redis-keys.md").read_text()
LUA = {path.stem: path.read_text() for path in (ROOT / "shared/queue/lua").glob("*.lua")}
LEASE_MS = 60_000

Row = dict[str, str]


def rows(heading: str) -> list[Row]:
    """The table below a heading; cells by the titles of their columns, without backticks."""
    lines = PAGE.split(heading, 1)[1].split("\n\n|", 1)[1].split("\n\n", 1)[0].splitlines()
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def fields_below(heading: str) -> list[str]:
    """Return the fields that a section of the page lists."""
    section = PAGE.split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^- `(\w+)`: ", section, flags=re.MULTILINE)


KEY_ROWS = {row["key"]: row for row in rows("# Redis keys")}


def key_patterns() -> set[str]:
    """Each key of Keys, with the names of its arguments in angle brackets."""
    keys, patterns = Keys("<queue>"), {"<queue>"}
    for name, member in vars(Keys).items():
        if isinstance(member, property):
            patterns.add(getattr(keys, name))
        elif inspect.isfunction(member) and not name.startswith("__"):
            *_, argument = inspect.signature(member).parameters
            patterns.add(getattr(keys, name)(f"<{argument}>"))
    return patterns


def test_the_page_lists_every_key() -> None:
    assert set(KEY_ROWS) == key_patterns()


def test_the_page_and_the_scripts_list_every_field() -> None:
    for heading, fields, script in [
        ("## Fields of a record", RECORD_FIELDS, "job_state"),
        ("## Fields of a batch", BATCH_FIELDS, "batch_state"),
        ("## Fields of the backlog", BACKLOG_FIELDS, "backlog"),
    ]:
        assert fields_below(heading) == list(fields)
        head = LUA[script].split("\n\n", 1)[0]
        assert set(fields) <= set(re.findall(r"\w+", head))


def test_the_page_names_the_ttls_and_bounds() -> None:
    def ttl(key: str) -> str:
        return KEY_ROWS[f"<queue>:{key}"]["TTL"]

    assert ttl("record:<job_id>").startswith(f"{UNFINISHED_JOB_TTL_S // 3600} h; ")
    assert f"default {RESULT_TTL_S // 3600} h" in ttl("record:<job_id>")
    assert f"at least {MIN_RECORD_TTL_S // 60} min" in ttl("record:<job_id>")
    assert ttl("replies:<replica_id>").startswith(f"{REPLIES_TTL_S // 60} min ")
    assert ttl("worker:<worker_id>").startswith(f"{WORKER_TTL_S} s ")
    assert ttl("current-model").startswith(f"{MODEL_CARD_TTL_S // 86400} d")
    assert ttl("loading").startswith(f"{LOADING_TTL_S // 3600} h")
    for bound in (DEAD_LETTERS_MAX, LISTED_MAX, REPLIES_MAX_ENTRIES):
        assert f" {bound:,}" in PAGE


class Observer:
    """Compares what Redis holds with the page, and notes the keys and fields that it saw."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys
        self.patterns: set[str] = set()
        self.record_fields: set[str] = set()
        self.backlog_fields: set[str] = set()
        self.batch_fields: set[str] = set()

    async def look(self) -> None:
        for key in [key.decode() for key in await self._redis.keys()]:
            [row] = [row for row in KEY_ROWS.values() if self._matches(row["key"], key)]
            assert (await self._redis.type(key)).decode() == row["type"], key
            assert (await self._redis.ttl(key) == -1) == (row["TTL"] == "none"), key
            self.patterns.add(row["key"])
            if row["key"] == "<queue>:record:<job_id>":
                self.record_fields |= await self._fields(key)
            elif row["key"] == "<queue>:batch:<batch_id>":
                self.batch_fields |= await self._fields(key)
            elif row["key"] == "<queue>:backlog":
                self.backlog_fields |= await self._fields(key)

    def check_that_it_saw_all(self) -> None:
        assert self.patterns == set(KEY_ROWS)
        assert self.record_fields == set(RECORD_FIELDS)
        assert self.backlog_fields == set(BACKLOG_FIELDS)
        assert self.batch_fields == set(BATCH_FIELDS)

    def _matches(self, pattern: str, key: str) -> bool:
        pattern = re.sub("<(?!queue)[a-z_]+>", "[^:]+", re.escape(pattern))
        queue = re.escape(self._keys.service) + "(:model:[^:]+)?"
        return re.fullmatch(pattern.replace("<queue>", queue), key) is not None

    async def _fields(self, key: str) -> set[str]:
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hkeys(key)
            (names,) = await pipe.execute()
        return {name.decode() for name in names}


async def report_workers(registry: Registry) -> None:
    """Report a live worker, and a loading worker."""
    await registry.report_loading(LoadingWorker(id="w2", model="m", started_ms=0))
    card_hash = await registry.publish_card(make_card(), b"{}")
    await registry.report(make_worker_info("w1", card_hash=card_hash))


async def test_redis_holds_what_the_page_says(redis: Redis, keys: Keys) -> None:
    """One job runs, streams, is cancelled, given up and retried; another one must run alone."""
    queue, registry, observer = JobQueue(redis, keys), Registry(redis, keys), Observer(redis, keys)
    await registry.announce("digest")
    await observer.look()
    await TokenLog(redis, keys).share("digest", "job")
    await report_workers(registry)
    assert await AdapterRegistry(redis, keys).change(AdapterSet(), AdapterSet().without("ode"))

    first, second = make_job(stream=True, metadata={"run": "7"}, owner="alice"), make_job()
    key = IdempotencyKey("digest", body_digest="body")
    await queue.enqueue(first, reply_to="api", max_queued=9, idempotency_key=key, response=b"{}")
    source = Source("ended", OriginKind.CONTINUE, num_deltas=0)
    await queue.enqueue(second, reply_to="api", max_queued=9, source=source)
    await observer.look()

    one_row = FreeCapacity(rows=1, kv_tokens=10, running=0)
    [claimed] = (await queue.claim("w1", one_row, lease_ms=LEASE_MS)).jobs
    assert await queue.start("w1", first.id, fencing_token=claimed.fencing_token, lease_ms=LEASE_MS)
    addition = (first.id, claimed.fencing_token, 0, [encode(Delta(token_ids=[1]))])
    await TokenLog(redis, keys).append("w1", [addition])
    await queue.cancel(first.id)
    await observer.look()

    error = JobError(message="given up")
    outcome = Failed(job_id=first.id, attempt=1, status=JobStatus.FAILED, error=error)
    assert await queue.finish(
        claimed, outcome, fencing_token=claimed.fencing_token, is_dead_letter=True
    )
    await observer.look()
    assert await queue.retry(first.id, max_queued=9)

    await redis.hset(keys.record(second.id), "attempts", "1")  # its last attempt must run alone
    busy = FreeCapacity(rows=9, kv_tokens=1000, running=1)
    assert (await queue.claim("w1", busy, lease_ms=LEASE_MS, max_attempts=2)).lacks_capacity
    await observer.look()

    await run_batches(redis, keys, observer)
    observer.check_that_it_saw_all()


async def run_batches(redis: Redis, keys: Keys, observer: Observer) -> None:
    """Run one batch to each of its possible ends."""
    files, store = FileStore(redis, keys), BatchStore(redis, keys)
    of_another_model = BatchLane(redis, Keys(keys.service, "other"))
    await of_another_model.enqueue(make_job(), reply_to="api")
    await BatchLane(redis, keys).enqueue(make_job(), reply_to="api")
    file = await files.create(one_line(), lambda: FileProperties("in.jsonl", "batch", 60))
    for last in (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, None):
        spec = make_spec(file.id)
        await store.create(spec)
        lease = await store.claim()
        assert lease is not None
        status = BatchStatus.IN_PROGRESS
        await store.move(lease, status, [BatchStatus.VALIDATING], total=2, model="m", errors=b"[]")
        answer = LineResult(0, True, b"{}\n", 1, 1, 1)
        results = [answer, LineResult(1, False, b"{}\n")]
        assert await store.append(lease, spec, results, Place(2, 9))
        await observer.look()
        if last is None:
            assert await store.cancel(spec.id)
            last, status = BatchStatus.CANCELLED, BatchStatus.CANCELLING
        else:
            status = BatchStatus.FINALIZING
            assert await store.move(lease, status, [BatchStatus.IN_PROGRESS], final=last)
        await files.publish_results(
            spec.output_file_id, filename="o", num_bytes=3, ttl_s=60, owner=spec.owner
        )
        assert await store.move(lease, last, [status])
        await observer.look()


async def one_line() -> AsyncIterator[bytes]:
    yield b"{}\n"


def make_spec(file_id: str) -> BatchSpec:
    return BatchSpec(
        **new_spec_ids(),
        endpoint="/v1/completions",
        completion_window="1h",
        input_file_id=file_id,
        metadata=None,
        created_at=0,
        expires_at=3600,
        output_ttl_s=60,
        owner="alice",
    )
