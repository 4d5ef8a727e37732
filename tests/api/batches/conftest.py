"""OpenAI's SDK with a service in this process."""

from collections.abc import AsyncIterator

import openai
import pytest

from tests.api.batches.sdk import sdk_of
from tests.fakes_api import FakeService


@pytest.fixture
async def sdk(service: FakeService) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk_of(service) as client:
        yield client
