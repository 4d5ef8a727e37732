"""OpenAI's SDK with its own retries: one call makes one job."""

from collections.abc import AsyncIterator

import httpx2
import openai
import pytest

from api.settings import ApiSettings
from tests.fakes_api import FakeService, fake_service

IMPATIENT = ApiSettings(sync_timeout_s=0.2)
NUM_RETRIES = 2


@pytest.fixture
async def impatient() -> AsyncIterator[FakeService]:
    """Return a service that waits 0.2 s for a job."""
    async with fake_service(IMPATIENT) as service:
        yield service


def sdk(service: FakeService) -> openai.AsyncOpenAI:
    """Return the SDK's client, which repeats a request that fails by a 5xx."""
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(service.asgi))
    return openai.AsyncOpenAI(
        base_url="http://api/v1", api_key="none", http_client=http, max_retries=NUM_RETRIES
    )


async def test_a_timeout_makes_one_job(impatient: FakeService) -> None:
    impatient.worker.paused = True
    async with sdk(impatient) as client:
        with pytest.raises(openai.InternalServerError) as error:
            await client.completions.create(model="letters", prompt="hello")
    assert (error.value.status_code, error.value.code) == (504, "timeout")
    [job] = impatient.worker.seen
    assert error.value.request_id == job.id


async def test_a_failed_job_is_not_repeated(service: FakeService) -> None:
    async with sdk(service) as client:
        with pytest.raises(openai.InternalServerError, match="no room on the device"):
            await client.completions.create(model="letters", prompt="fail")
    assert len(service.worker.seen) == 1


async def test_an_error_in_a_stream_is_raised(service: FakeService) -> None:
    async with sdk(service) as client:
        stream = await client.completions.create(model="letters", prompt="fail", stream=True)
        with pytest.raises(openai.APIError, match="no room on the device"):
            [chunk async for chunk in stream]
    assert len(service.worker.seen) == 1


async def test_a_key_lets_the_sdk_wait_again_for_the_same_job(impatient: FakeService) -> None:
    impatient.worker.paused = True
    async with sdk(impatient) as client:
        with pytest.raises(openai.InternalServerError):
            await client.completions.create(
                model="letters", prompt="hello", extra_headers={"Idempotency-Key": "k"}
            )
    assert len(impatient.worker.seen) == 1
