"""The services that the routes share: one instance per process, found through the request."""

import asyncio
from dataclasses import dataclass, field, replace

from fastapi import Request

from api.batches.runner import BatchRunner
from api.jobs.derived_jobs import DerivedJobs
from api.jobs.job_client import JobClient
from api.jobs.pending_cancellations import PendingCancellations
from api.jobs.redis_services import RedisServices
from api.jobs.served_models import ServedModels
from api.jobs.tokenization import Tokenization
from api.metrics import Metrics
from api.settings import ApiSettings
from shared.access.api_keys import Caller
from shared.access.key_file import WatchedKeys
from shared.process.asyncio_tasks import cancel_all, wait_at_most

CANCELLATIONS_TIMEOUT_S = 1.0  # to send them, if Redis answers by then
RELEASE_TIMEOUT_S = 1.0  # to release the leases over batches


@dataclass(slots=True)
class Services:
    """The services of one api process."""

    settings: ApiSettings
    redis: RedisServices
    models: ServedModels
    tokenization: Tokenization
    cancellations: PendingCancellations
    metrics: Metrics
    client: JobClient
    derived: DerivedJobs
    batches: BatchRunner
    keys: WatchedKeys | None = None  # None: every client is an admin
    caller: Caller = field(default_factory=Caller)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # open requests must end
    tasks: list[asyncio.Task[None]] = field(default_factory=list)  # run until `stop`

    def start(self) -> None:
        self.tasks = [
            asyncio.create_task(self.redis.replies.run(), name="replies"),
            asyncio.create_task(self.models.run(), name="model watch"),
            asyncio.create_task(self.cancellations.run(), name="cancellations"),
            asyncio.create_task(self.batches.run(), name="batches"),
        ]
        if self.keys is not None:
            self.tasks.append(asyncio.create_task(self.keys.run(), name="keys"))

    async def stop(self) -> None:
        await wait_at_most(CANCELLATIONS_TIMEOUT_S, self.cancellations.wait_until_sent())
        await cancel_all(self.tasks)
        await wait_at_most(RELEASE_TIMEOUT_S, self.batches.stop())
        await self.redis.close()

    def of(self, caller: Caller) -> "Services":
        """Return the services as the caller may use them: with its jobs, files and batches."""
        return replace(
            self,
            redis=self.redis.seen_by(caller),
            client=self.client.of(caller),
            derived=self.derived.of(caller),
            caller=caller,
        )

    @property
    def dead_tasks(self) -> list[str]:
        """Return the names of tasks that ended before `stop`."""
        return [task.get_name() for task in self.tasks if task.done()]


def app_services(request: Request) -> Services:
    """Return the services of the process, for all callers."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


def set_caller(request: Request, caller: Caller) -> None:
    request.state.caller = caller


def services_of(request: Request) -> Services:
    """Return the services for the caller of the request."""
    services, caller = app_services(request), request.state.caller
    return services if caller == services.caller else services.of(caller)
