"""`falconer worker`: load a model, serve jobs until a signal, return an exit code."""

import asyncio
import logging
import os
import socket

import structlog

from shared.model_source import model_name
from shared.process.asyncio_tasks import cancel_all
from shared.process.log_config import configure_logs
from shared.process.signals import end_at_once_on_signals, stop_signals
from shared.process.sockets import listen
from shared.redis.client import connect
from shared.registry.loading_model import announce_model
from worker.health.load_reporter import LoadReporter
from worker.jobs.redis_loops import EngineStuck
from worker.model_loading import LoadedModel, load_model, settle_garbage_collector
from worker.process import EngineDied, WorkerProcess, new_worker_id
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)


def main(settings: WorkerSettings) -> int:
    """Serve until a signal; return 0, or exit with 1 if the engine died. Raises SettingsError.

    While the model loads, a signal ends the process at once with exit code 128 + its number.
    """
    end_at_once_on_signals()
    configure_logs(settings.log_level, settings.log_format)
    try:
        # A bad URL or an occupied port must show before minutes of loading.
        connect(settings.redis_url, name="check")
        listener = listen_for_probes(settings)
        keys = settings.keys_of(model_name(settings.model))
        asyncio.run(announce_model(settings.redis_url, keys, settings.model))
        log.info("loading model", model=settings.model)
        worker_id = settings.worker_id or new_worker_id()
        settings = settings.model_copy(update={"worker_id": worker_id})
        name = model_name(settings.model)
        with LoadReporter(settings.redis_url, keys, worker_id, name) as progress:
            model = load_model(settings, progress)
        log.info("model loaded", **model.engine.load_report.to_log())
        settle_garbage_collector()
        asyncio.run(_run(settings, model, listener))
        return 0
    except (EngineStuck, EngineDied) as error:
        log.critical("exiting; jobs move to other workers after their leases", reason=str(error))
        logging.shutdown()
        os._exit(1)  # a thread stuck in a device call would block a normal exit forever


def listen_for_probes(settings: WorkerSettings) -> socket.socket | None:
    """Return a bound socket, served once the model is loaded; None without a metrics port."""
    if settings.metrics_port is None:
        return None
    flags = "--metrics-host/--metrics-port"
    listener = listen(settings.metrics_host, settings.metrics_port, flags=flags)
    host, port = listener.getsockname()[:2]
    log.info("probes and metrics", host=host, port=port)
    return listener


async def _run(
    settings: WorkerSettings, model: LoadedModel, listener: socket.socket | None
) -> None:
    process = WorkerProcess(settings, model, listener)
    loop = asyncio.get_running_loop()
    for signum in stop_signals():
        loop.add_signal_handler(signum, process.stop)
    try:
        await process.run()
    finally:
        await cancel_all(asyncio.all_tasks() - {asyncio.current_task()})
