"""Run `falconer serve`: check the settings, then start Redis, the api and the workers."""

import asyncio
import fcntl
import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serve.child import Child
from serve.embedded_redis import EmbeddedRedis
from serve.screen import Screen
from serve.settings import ServeSettings
from serve.supervisor import Supervisor
from shared.errors import SettingsError
from shared.model_source import model_name
from shared.process.allocator import HUGE_PAGES
from shared.process.log_config import LogLevel, configure_logs
from shared.process.settings import load_settings
from shared.redis.client import UNREACHABLE, connect
from shared.redis.server_check import check_server
from shared.registry.loading_model import announce_model
from shared.registry.queue_settings import QueueSettings, split_names
from shared.registry.worker_registry import Registry
from worker.host_memory import free_memory

REDIS_S = 3.0  # for the response of a Redis that the user runs
DRAIN_S = 3  # grace period of api and workers; a shutdown takes at most five seconds
GRACE = ["--grace-s", str(DRAIN_S)]


def main(settings: ServeSettings) -> int:
    """Run until Ctrl-C. Raises SettingsError for problems that the user can fix."""
    configure_logs(LogLevel.ERROR)  # the children write logs; this process prints its screen
    screen = Screen()
    for model in models_of(settings):
        check_model(model)
    check_port(settings.host, settings.port)
    with state_folder(settings.state_dir) as state_dir:
        supervisor = assemble(settings, state_dir, screen)
        supervisor.handle_signals()
        try:
            supervisor.start(settings.start_timeout_s)
            if not supervisor.is_stopping:
                greet(screen, settings, supervisor)
            supervisor.run()
            screen.say("\n  Stopping: running jobs get a moment to finish ...")
        finally:
            supervisor.stop()
        screen.say("  Stopped.")
    return 0


def greet(screen: Screen, settings: ServeSettings, supervisor: Supervisor) -> None:
    redis_line = "yours (redis-url)" if settings.redis_url else "embedded, append-only file"
    screen.ready(
        url=supervisor.url,
        models=[model_name(model) for model in models_of(settings)],
        workers=settings.workers,
        redis=redis_line,
        state_dir=settings.state_dir,
        needs_key=settings.keys_file is not None,
    )


def models_of(settings: ServeSettings) -> tuple[str, ...]:
    """Return the folders and hub ids of all models, the first one first. Raises SettingsError."""
    models = split_names(settings.model) or (settings.model,)
    if len({model_name(model) for model in models}) < len(models):
        raise SettingsError(f"--model = {settings.model!r}: must name models of different names")
    return models


def check_model(model: str) -> None:
    """Raise SettingsError for a folder that cannot be a checkpoint."""
    looks_like_path = model.startswith((".", "/", "~")) or Path(model).exists()
    if looks_like_path and not (Path(model).expanduser() / "config.json").is_file():
        raise SettingsError(f"--model = {model!r}: no checkpoint there (no config.json)")


def check_port(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port"
        ) from error


@contextmanager
def state_folder(path: Path) -> Iterator[Path]:
    """Lock the state folder: two services must not share an append-only file."""
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("w")
    except OSError as error:
        raise SettingsError(f"--state-dir {path}: cannot write there ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(
                f"another falconer serve uses {path}; give this one its own --state-dir"
            ) from error
        yield path


def assemble(settings: ServeSettings, state_dir: Path, screen: Screen) -> Supervisor:
    """Return the supervisor of the child processes, which are not started yet."""
    logs = state_dir / "logs"
    embedded, url = None, settings.redis_url
    if url is None:
        server = EmbeddedRedis.prepare(state_dir / "redis")
        url = server.url
        embedded = Child(
            "redis", [server.binary, "-"], os.environ, logs / "redis.log", server.configuration
        )
        screen.say(f"  starting Redis on 127.0.0.1:{server.port} and the api ...")
    else:
        check_redis(url)
    models = models_of(settings)
    env = {**os.environ, "FALCONER_REDIS_URL": url, "PYTHONUNBUFFERED": "1"}
    if len(models) > 1:
        env["FALCONER_MODELS"] = ",".join(map(model_name, models))
    # -P: no folder in the working directory can shadow a package.
    falconer = [sys.executable, "-P", "-m", "falconer"]
    api = ["api", "--host", settings.host, "--port", str(settings.port), *GRACE, *access(settings)]
    return Supervisor(
        redis=embedded,
        api=Child("api", [*falconer, *api], env, logs / "api.log"),
        workers=make_workers(settings, falconer, env, logs),
        before_api=lambda: announce_models(url, models, env),
        live_workers=lambda: asyncio.run(live_workers(url, queues_of(env))),
        url=f"http://{url_host(settings.host)}:{settings.port}",
        screen=screen,
    )


def access(settings: ServeSettings) -> list[str]:
    """Return the flags of the api that decide about access."""
    keys = ["--keys-file", str(settings.keys_file)] if settings.keys_file else []
    return [*keys, *["--insecure"] * settings.insecure]


def make_workers(
    settings: ServeSettings, falconer: list[str], env: dict[str, str], logs: Path
) -> dict[str, Child]:
    """Return the workers of all models by their ids, which are not started yet."""
    models = models_of(settings) * settings.workers
    share = memory_share(len(models))
    ids = new_worker_ids(len(models))
    return {
        id_: Child(
            f"worker {number}",
            [*falconer, "worker", "--model", model, *GRACE, *share, "--worker-id", id_],
            {**HUGE_PAGES, **env},
            logs / f"worker-{number}.log",
        )
        for number, (id_, model) in enumerate(zip(ids, models, strict=True), 1)
    }


def announce_models(url: str, models: Iterable[str], env: Mapping[str, str]) -> None:
    queues = queues_of(env)
    for model in models:
        asyncio.run(announce_model(url, queues.keys_of(model_name(model)), model))


def queues_of(env: Mapping[str, str]) -> QueueSettings:
    return load_settings(QueueSettings, {"models": env.get("FALCONER_MODELS")})


async def live_workers(url: str, queues: QueueSettings) -> set[str]:
    """Return the ids of the live workers of all models; none while Redis is unreachable."""
    client = connect(url, name="falconer-serve")
    try:
        async with asyncio.timeout(REDIS_S):
            registries = [Registry(client, keys) for keys in queues.all_keys]
            return {worker.id for one in registries for worker in await one.workers()}
    except UNREACHABLE:
        return set()
    finally:
        await client.aclose()


def memory_share(num_workers: int) -> list[str]:
    """Return the flags that give each of several workers an equal part of the free memory.

    The workers load at the same time, so each would count the same memory as free.
    """
    if num_workers == 1 or os.environ.get("FALCONER_MEMORY"):
        return []
    return ["--memory", str(free_memory().num_bytes // num_workers)]


def new_worker_ids(count: int) -> list[str]:
    run = secrets.token_hex(3)  # Redis may still list the workers of an earlier run
    return [f"worker-{number}-{run}" for number in range(1, count + 1)]


def url_host(host: str) -> str:
    """Return the host of a URL that a browser can open; a wildcard address includes loopback."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def check_redis(url: str) -> None:
    try:
        asyncio.run(_ping(url))
    except SettingsError as error:
        raise SettingsError(f"--redis-url: {error.message}") from error
    except UNREACHABLE as error:
        reason = str(error) or f"no answer within {REDIS_S:.0f} s"
        raise SettingsError(f"--redis-url: cannot reach Redis: {reason}") from error


async def _ping(url: str) -> None:
    client = connect(url, name="falconer-serve")
    try:
        async with asyncio.timeout(REDIS_S):
            await check_server(client)
    finally:
        await client.aclose()
