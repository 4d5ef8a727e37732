"""Check at startup that a Redis server is new enough and keeps accepted jobs."""

import re
from collections.abc import Mapping
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from shared.errors import SettingsError

OLDEST = (6, 2)
# Versions that replay the append-only file with the permissions of the default user, and the first
# versions that do not (redis#14541, valkey#3983).
REDIS_WITH_FAULT, REDIS_FIX, VALKEY_FIX = (7, 0), (8, 6), (9, 1, 2)

log = structlog.get_logger(__name__)


async def check_server(redis: Redis) -> None:
    """Raise SettingsError if the server is too old, or has the fault of `_check_default_user`.

    Log a warning if its configuration can lose accepted jobs, or if the user lacks the permission
    for INFO, as a user without `@dangerous` does.
    """
    try:
        info = await redis.info()
    except NoPermissionError as error:
        log.warning("Redis was not checked: no permission for INFO", error=str(error))
        return
    is_valkey = "valkey_version" in info
    name = f"Valkey {info['valkey_version']}" if is_valkey else f"Redis {info['redis_version']}"
    version = tuple(int(number) for number in re.findall("[0-9]+", name))
    if not is_valkey and version < OLDEST:
        raise SettingsError(f"{name} is too old: Falconer needs Redis 6.2 or later, or Valkey")
    has_fault = version < VALKEY_FIX if is_valkey else REDIS_WITH_FAULT <= version < REDIS_FIX
    if has_fault and info.get("aof_enabled") and _user(redis) != "default":
        await _check_default_user(redis, name)
    _warn_of_losses(info)


def _warn_of_losses(info: Mapping[str, Any]) -> None:
    risks = []
    if not info.get("aof_enabled"):
        risks.append("appendonly is off, so a restart can lose jobs")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        risks.append(f"maxmemory-policy must be noeviction: {policy} deletes jobs")
    if risks:
        log.warning("Redis can lose accepted jobs", reason="; ".join(risks))


def _user(redis: Redis) -> str:
    return redis.connection_pool.connection_kwargs.get("username") or "default"


async def _check_default_user(redis: Redis, name: str) -> None:
    fault = (
        f"{name} loses accepted jobs when it restarts unless its default user may write, even if "
        "that user is off (redis#14541)"
    )
    remedy = "run ACL SETUSER default +@all ~* &* and keep it in the server's configuration"
    try:
        answer = await redis.execute_command("ACL DRYRUN", "default", "SET", "falconer", "1")
    except ResponseError as error:  # no permission for ACL DRYRUN
        log.warning(
            "Redis was not checked for lost jobs at a restart", fault=fault, error=str(error)
        )
        return
    if answer not in (b"OK", "OK", True):
        raise SettingsError(f"{fault}: {remedy}, or upgrade to Redis 8.6 or Valkey 9.1.2")
