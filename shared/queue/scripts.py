"""Run the Lua scripts of `shared/queue/lua/`; each one reads or changes the queue atomically.

Key names and constants of `shared/queue/keys.py` precede the text of each script. Scripts build
key names from job ids, so one Redis must serve the queue; a Redis Cluster cannot.
"""

import json
import time
from collections.abc import Iterator
from enum import StrEnum
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import ResponseError

from shared.queue import keys as constants
from shared.queue.keys import Keys

ScriptArg = str | bytes | int | float


class Script(StrEnum):
    ENQUEUE = "enqueue"
    ESTIMATE = "estimate"
    CLAIM = "claim"
    START = "start"
    RENEW = "renew"
    FINISH = "finish"
    RELEASE = "release"
    CANCEL = "cancel"
    DELETE = "delete"
    WATCH = "watch"
    DEPTH = "depth"
    LIST_JOBS = "list_jobs"
    PURGE = "purge"
    HEARTBEAT = "heartbeat"
    PUBLISH_MODEL_CARD = "publish_model_card"
    APPEND_TOKENS = "append_tokens"
    ENQUEUE_BATCH_JOB = "enqueue_batch_job"
    CREATE_BATCH = "create_batch"
    CLAIM_BATCH = "claim_batch"
    RENEW_BATCH = "renew_batch"
    APPEND_RESULTS = "append_results"
    MOVE_BATCH = "move_batch"
    CHANGE_ADAPTERS = "change_adapters"


# Precede the text of each script in this order: a later file uses functions of an earlier one.
SHARED_LUA = ("time", "job_index", "backlog", "job_state", "batch_state")

CLOCK_STALE_S = 60.0  # clocks drift apart
NO_MEMORY = "command not allowed when used memory"
# Redis checks its memory limit only at the first write of a script. PERSIST needs no memory, and
# changes nothing because QUEUE has no TTL: behind it, a script runs at the memory limit too.
ALLOW_OOM_PREFIX = "redis.call('PERSIST', QUEUE)\n"


class Scripts:
    """Run scripts by their digest, and load a script that Redis does not have.

    At its memory limit, Redis accepts no new job, and estimates for none. All other scripts run:
    memory becomes free when jobs end.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._clock = RedisClock(redis)
        shared = _constants(keys) + "".join(map(_source, SHARED_LUA))
        self._scripts = {
            script: redis.register_script(shared + _source(script)) for script in Script
        }
        self._allow_oom: dict[Script, AsyncScript] = {
            script: redis.register_script(shared + ALLOW_OOM_PREFIX + _source(script))
            for script in Script
            if script not in (Script.ENQUEUE, Script.ESTIMATE)
        }

    async def run(self, script: Script, *args: ScriptArg) -> Any:
        try:
            return await self._scripts[script](args=args)
        except ResponseError as error:
            allow_oom = self._allow_oom.get(script)
            if allow_oom is None or NO_MEMORY not in str(error):
                raise
            return await allow_oom(args=args)  # Redis refused the first write: nothing was done

    async def run_within(self, within_s: float, script: Script, *args: ScriptArg) -> list[Any]:
        """Run a script that Redis refuses later than `within_s` from now; then raise TimeoutError.

        The last argument of the script is that time, by the clock of Redis.
        """
        deadline_s = time.monotonic() + within_s
        await self._clock.refresh()
        while (left_s := deadline_s - time.monotonic()) > 0:
            accept_before_ms = self._clock.deadline_ms(left_s)
            reply: list[Any] = await self.run(script, *args, accept_before_ms)
            if reply[0] != b"late":
                return reply
            self._clock.observe(int(reply[1]))  # the clock may have been set
        raise TimeoutError("Redis received the command too late")


class RedisClock:
    """Estimate of the clock of Redis, behind it by the transit time of the last reading."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._offset_ms = 0.0  # from our clock to that of Redis
        self._observed_at: float | None = None

    async def refresh(self) -> None:
        """Read the clock of Redis if the last reading is older than CLOCK_STALE_S."""
        if self._observed_at is None or time.monotonic() - self._observed_at > CLOCK_STALE_S:
            seconds, microseconds = await self._redis.time()
            self.observe(1000 * seconds + microseconds / 1000)

    def observe(self, redis_ms: float) -> None:
        """Record a reading of the clock that has just arrived."""
        self._observed_at = time.monotonic()
        self._offset_ms = redis_ms - 1000 * self._observed_at

    def deadline_ms(self, seconds: float) -> int:
        """Return the time of Redis in so many seconds; needs a reading first."""
        assert self._observed_at is not None, "the clock was never read"
        return round(self._offset_ms + 1000 * (time.monotonic() + seconds))


def _source(name: str) -> str:
    return files("shared.queue").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def _constants(keys: Keys) -> str:
    of_model = _keys_of_model(keys)
    values = _limits() | {
        **of_model,
        "MODEL": keys.model,
        "DEAD_LETTERS": keys.dead_letters,
        "JOB_INDEX": keys.job_index,
        "BATCHES": keys.batches,
        "ACTIVE_BATCHES": keys.active_batches,
        # Prefixes: an id follows.
        "RECORD": keys.record(""),
        "OWNER_JOBS": keys.jobs_of(""),
        "OWNER_BATCHES": keys.batches_of(""),
        "BATCH": keys.batch(""),
        "BATCH_LINES": keys.batch_lines(""),
        "FILE_DATA": keys.file_data(""),
        "TOKEN_LOG": keys.token_log(""),
        "RETRY_PAYLOAD": keys.retry_payload(""),
        "RESPONSE": keys.response(""),
        "ARQ_JOB": keys.arq_job(""),
        "ARQ_RETRY": keys.arq_retry(""),
        "ARQ_IN_PROGRESS": keys.arq_in_progress(""),
        "ARQ_RESULT": keys.arq_result(""),
        "REPLIES": keys.replies(""),
        "CONTROL": keys.control(""),
        "IDEMPOTENCY": keys.idempotency(""),
        "WORKER": keys.worker(""),
        "MODEL_CARD": keys.model_card(""),
        "MODEL_CREATED": keys.model_created(""),
    }
    lines = [f"local {name} = {_literal(value)}\n" for name, value in values.items()]
    return "".join([*lines, *_use_model(keys, of_model)])


def _keys_of_model(keys: Keys) -> dict[str, str]:
    """Return the keys that each model of a service has for itself."""
    return {
        "QUEUE": keys.queue,
        "WAKE": keys.wake,
        "WORKERS": keys.workers,
        "TOTALS": keys.totals,
        "ALONE_WORKER": keys.alone_worker,
        "BACKLOG": keys.backlog,
        "BATCH_LANE": keys.batch_lane,
        "CURRENT_MODEL": keys.current_model,
        "ADAPTERS": keys.adapters,
        "LOADING": keys.loading,
    }


def _use_model(keys: Keys, of_model: dict[str, str]) -> Iterator[str]:
    """Yield a function after which a script uses the keys of a model.

    Its argument is the field `model` of a record, '' or false for the service's first model.
    """
    first, other = Keys(keys.service).queue, Keys(keys.service, "*").queue.removesuffix("*")
    yield "local function use_model(model)\n"
    yield "MODEL = model or ''\n"
    yield f"local queue = MODEL == '' and {_literal(first)} or {_literal(other)} .. MODEL\n"
    for name, key in of_model.items():
        yield f"{name} = queue .. {_literal(key.removeprefix(keys.queue))}\n"
    yield "end\n"


def _literal(value: str | int) -> str:
    return json.dumps(value, ensure_ascii=False)


def _limits() -> dict[str, str | int]:
    return {
        "LEASE_SCORE_BASE": constants.LEASE_SCORE_BASE,
        "JOB_TTL_MS": constants.JOB_TTL_S * 1000,
        "UNFINISHED_JOB_TTL_MS": constants.UNFINISHED_JOB_TTL_S * 1000,
        "RESULT_TTL_MS": constants.RESULT_TTL_S * 1000,
        "MIN_RECORD_TTL_MS": constants.MIN_RECORD_TTL_S * 1000,
        "REPLIES_TTL_MS": constants.REPLIES_TTL_S * 1000,
        "WORKER_TTL_MS": constants.WORKER_TTL_S * 1000,
        "MODEL_CARD_TTL_MS": constants.MODEL_CARD_TTL_S * 1000,
        "UNKNOWN_RETRY_AFTER_MS": constants.UNKNOWN_RETRY_AFTER_S * 1000,
        "REPLIES_MAX_ENTRIES": constants.REPLIES_MAX_ENTRIES,
        "DEAD_LETTERS_MAX": constants.DEAD_LETTERS_MAX,
        "LISTED_MAX": constants.LISTED_MAX,
        "TRAIL_MAX_BYTES": constants.TRAIL_MAX_BYTES,
        "BATCH_LANE_MAX": constants.BATCH_LANE_MAX,
        "ACTIVE_BATCHES_MAX": constants.ACTIVE_BATCHES_MAX,
        "FILE_TTL_MS": constants.FILE_TTL_S * 1000,
        "OWNER_INDEX_TTL_MS": constants.OWNER_INDEX_TTL_S * 1000,
        "OWNER_BATCHES_TTL_MS": constants.OWNER_BATCHES_TTL_S * 1000,
    }
