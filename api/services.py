"""What the routes share, made once per process and found through the request."""

import asyncio
import time
from dataclasses import dataclass, field

from fastapi import Request

from api.jobs.job_client import ChatClient
from api.jobs.model_watcher import ModelWatcher
from api.jobs.redis_services import Backend
from api.jobs.withdrawals import Withdrawals
from api.metrics import Metrics
from api.settings import ApiSettings
from shared.process.asyncio_tasks import cancel_all, wait_at_most

LAST_CHANCE_S = 1.0  # to withdraw jobs, if Redis is back by then


@dataclass(slots=True)
class Services:
    """`stopping` is set when open calls must end; `tasks` run for as long as the process.

    `started_s`: in Unix seconds.
    """

    settings: ApiSettings
    backend: Backend
    models: ModelWatcher
    withdrawals: Withdrawals
    metrics: Metrics
    client: ChatClient
    started_s: int = field(default_factory=lambda: int(time.time()))
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        self.tasks = [
            asyncio.create_task(self.backend.replies.run(), name="replies"),
            asyncio.create_task(self.models.run(), name="model watch"),
            asyncio.create_task(self.withdrawals.run(), name="withdrawals"),
        ]

    async def stop(self) -> None:
        await wait_at_most(LAST_CHANCE_S, self.withdrawals.settle())
        await cancel_all(self.tasks)
        await self.backend.close()

    @property
    def dead_tasks(self) -> list[str]:
        """Names of tasks that ended though they never should."""
        return [task.get_name() for task in self.tasks if task.done()]


def services_of(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services
