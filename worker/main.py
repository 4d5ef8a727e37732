"""`falconer worker`: settings in, jobs served, an exit code out. Prints nothing but log lines."""

import asyncio
import gc
import logging
import os
import socket

import structlog

from shared.process.asyncio_tasks import cancel_all
from shared.process.log_config import configure_logs
from shared.process.signals import end_at_once_on_signals, stop_signals
from shared.process.sockets import listen
from shared.queue.announcement import announce_model
from shared.redis.client import connect
from worker.jobs.lease_renewal import EngineStuck
from worker.model_loading import LoadedModel, load_model
from worker.process import EngineDied, WorkerProcess
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)


def main(settings: WorkerSettings) -> int:
    """Run until a signal stops it: 0; 1 when the engine died. Raises SettingsError.

    While the model loads, a signal ends it at once, with 128 and the signal's number.
    """
    end_at_once_on_signals()
    configure_logs(settings.log_level, settings.log_format)
    try:
        # A bad URL, a port that is taken: both show before minutes of loading.
        connect(settings.redis_url, name="check")
        listener = listen_for_probes(settings)
        asyncio.run(announce_model(settings.redis_url, settings.queue, settings.model))
        log.info("loading model", model=settings.model)
        model = load_model(settings)
        log.info("model loaded", **model.engine.load_report.to_log())
        gc.freeze()  # what loading made lives as long as the process: never look at it again
        asyncio.run(_run(settings, model, listener))
        return 0
    except (EngineStuck, EngineDied) as error:
        log.critical("ending, other workers will run its jobs", reason=str(error))
        logging.shutdown()
        os._exit(1)  # a thread stuck in a device call would hold up an orderly end for ever


def listen_for_probes(settings: WorkerSettings) -> socket.socket | None:
    """A bound socket, answered once the model is loaded; None where nobody wants to ask."""
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
