from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.settings import ApiSettings
from tests.api.access.callers import Callers, write_keys
from tests.fakes_api import FakeService, fake_service


@pytest.fixture
def keys(tmp_path: Path) -> Callers:
    return write_keys(tmp_path / "keys.json")


@pytest.fixture
async def guarded(keys: Callers) -> AsyncIterator[FakeService]:
    """Return an api with keys and one live echo worker."""
    async with fake_service(settings=ApiSettings(keys_file=keys.file)) as service:
        yield service
