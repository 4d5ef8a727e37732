"""The OpenAPI document: fuzzed requests get documented responses, and no unexpected 5xx."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from fakeredis import FakeAsyncRedis
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis
from schemathesis import checks

from api.app import create_app
from api.examples import REQUESTS
from api.settings import ApiSettings
from tests.api.fuzzing import WAIT_S, Reach
from tests.fakes_api import FakeService, served_api


def no_redis(url: str, *, name: str, block_s: float = 0.0) -> Redis:
    return FakeAsyncRedis()


DOCUMENT = create_app(ApiSettings(), no_redis).openapi()

schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def reach() -> Iterator[Reach]:
    with served_api() as url, httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False) as http:
        yield Reach(http)


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_fuzzed_requests_get_documented_responses(
    case: schemathesis.Case[Any], reach: Reach
) -> None:
    reach.prepare(case)
    response = case.call_and_validate(
        base_url=str(reach.http.base_url),
        checks=[
            checks.not_a_server_error,
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_headers_conformance,
            checks.response_schema_conformance,
            checks.negative_data_rejection,
        ],
    )
    reach.count(case, response.status_code)


def test_the_fuzzed_requests_succeeded_on_every_route(reach: Reach) -> None:
    assert reach.without_success() == [], reach.statuses


async def test_the_openapi_document_and_its_page_are_served(service: FakeService) -> None:
    assert (await service.http.get("/docs")).status_code == 200
    assert (await service.http.get("/openapi.json")).json() == DOCUMENT


def test_the_openapi_document_has_the_examples() -> None:
    for path in ("/chat", "/jobs", "/estimate"):
        body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert body["examples"] == REQUESTS


async def test_the_page_loads_nothing_from_elsewhere(service: FakeService) -> None:
    page = (await service.http.get("/docs")).text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) >= 3
    for source in sources:
        assert (await service.http.get(source)).status_code == 200


def test_every_reference_of_the_openapi_document_resolves() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for reference in references(DOCUMENT):
        assert reference.removeprefix("#/components/schemas/") in schemas


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from references(item)
