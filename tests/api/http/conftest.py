"""A Redis and an api process that the tests of one file share."""

from collections.abc import Iterator

import pytest

from tests.api.api_process import ApiProcess
from tests.redis_server import RedisServer, running_redis


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def module_api(module_redis: RedisServer) -> Iterator[ApiProcess]:
    with ApiProcess(module_redis.url) as process:
        yield process
