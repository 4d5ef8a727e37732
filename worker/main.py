"""`falconer worker`: settings in, jobs served, an exit code out. Prints nothing but log lines."""

import asyncio
import gc
import logging
import os
import signal

import structlog

from shared.connection import connect
from shared.logs import configure_logs
from shared.tasks import cancel_all
from worker.leases import EngineStuck
from worker.model_loading import LoadedModel, load_model
from worker.process import EngineDied, WorkerProcess
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)


def main(settings: WorkerSettings) -> int:
    """Run until SIGTERM or SIGINT: 0; 1 when the engine died. Raises SettingsError."""
    configure_logs(settings.log_level, settings.log_format)
    try:
        connect(settings.redis_url, name="check")  # a bad URL shows before minutes of loading
        log.info("loading model", model=settings.model)
        model = load_model(settings)
        gc.freeze()  # what loading made lives as long as the process: never look at it again
        asyncio.run(_run(settings, model))
        return 0
    except (EngineStuck, EngineDied) as error:
        log.critical("ending, other workers will run its jobs", reason=str(error))
        logging.shutdown()
        os._exit(1)  # a thread stuck in a device call would hold up an orderly end for ever
    except KeyboardInterrupt:
        return 130  # before the model was loaded


async def _run(settings: WorkerSettings, model: LoadedModel) -> None:
    process = WorkerProcess(settings, model)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, process.stop)
    try:
        await process.run()
    finally:
        await cancel_all(asyncio.all_tasks() - {asyncio.current_task()})
