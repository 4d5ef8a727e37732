"""The merged events of several jobs of one request."""

from collections.abc import AsyncIterator
from typing import cast

import pytest

from api.jobs.job_handle import JobHandle
from api.routes.v1.chunk_stream import merged_events
from api.routes.v1.request_jobs import RequestJobs
from api.services import Services
from shared.errors import ServiceUnavailable
from shared.protocol import Delta, Event, TokenDeltas


class HandleOfAFailingLog:
    """Give one delta, then raise as a handle does that cannot read the token log."""

    async def events(self) -> AsyncIterator[Event | None]:
        yield TokenDeltas(job_id="1", index=0, deltas=[Delta(text="a", token_ids=[1])])
        raise ServiceUnavailable("no answer", retry_after_s=1)


async def test_an_error_of_one_job_ends_the_stream_of_all() -> None:
    handles = [cast(JobHandle, HandleOfAFailingLog()) for _ in range(2)]
    jobs = RequestJobs(cast(Services, None), handles, outlive_client=False)
    with pytest.raises(ServiceUnavailable):
        async for _ in merged_events(jobs):
            pass
