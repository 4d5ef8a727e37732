from collections.abc import AsyncIterator

import pytest

from tests.fakes_api import FakeService, fake_service


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    """An api with one live echo worker."""
    async with fake_service() as running:
        yield running


@pytest.fixture
async def workerless() -> AsyncIterator[FakeService]:
    """An api that no worker has registered with yet."""
    async with fake_service(with_worker=False) as running:
        yield running
