"""The headers of a body: media type, charset and content coding."""

import gzip
import random
import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterator

import httpx
import pytest

from api.settings import ApiSettings
from tests.api.refusals import body, check_refusal
from tests.fakes_api import FakeService, fake_service

TEXT = "Größe für 10 €, 猫"
BODY = body(prompt=TEXT)
MAX_BYTES = 1000


def deflated(content: bytes) -> bytes:
    """Omit zlib's header, as some clients do."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


CODED = {
    "gzip": gzip.compress(BODY),
    "GZip": gzip.compress(BODY),
    "x-gzip": gzip.compress(BODY),
    "gzip ": b"".join(gzip.compress(BODY[at : at + 1]) for at in range(len(BODY))),  # members
    "deflate": zlib.compress(BODY),
    "Deflate": deflated(BODY),
    "identity": BODY,
    "identity, identity": BODY,
    "": BODY,
    "gzip, identity": gzip.compress(BODY),
    ",deflate,": deflated(BODY),
}


async def post(
    service: FakeService, content: bytes | AsyncIterator[bytes], *headers: tuple[str, str]
) -> httpx.Response:
    headers = (("Content-Type", "application/json"), *headers)
    return await service.http.post("/chat", content=content, headers=list(headers))


async def in_pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def check_echo(service: FakeService, response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    assert service.worker.seen[-1].prompt == TEXT


# -- charset and byte order mark -------------------------------------------------------------


async def test_a_byte_order_mark_is_accepted(service: FakeService) -> None:
    check_echo(service, await post(service, BOM_UTF8 + BODY))
    check_refusal(
        *status_and_text(await post(service, BOM_UTF8 + BOM_UTF8 + BODY)), 400, ["body", "JSON"]
    )


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8", "us-ascii"])
async def test_each_name_of_utf8_is_accepted(service: FakeService, charset: str) -> None:
    headers = {"Content-Type": f"application/json; Charset={charset}"}
    check_echo(service, await service.http.post("/chat", content=BODY, headers=headers))


@pytest.mark.parametrize("charset", ["iso-8859-1", "UTF-16", '"windows-1252"', "utf-8x"])
async def test_another_charset_is_rejected_by_name(service: FakeService, charset: str) -> None:
    headers = {"Content-Type": f"application/json;charset={charset}"}
    response = await service.http.post("/jobs", content=BODY, headers=headers)
    check_refusal(*status_and_text(response), 415, ["must be UTF-8", charset.strip('"')])
    assert await service.num_queued() == 0


async def test_a_request_without_a_media_type_is_accepted(service: FakeService) -> None:
    response = await service.http.post("/chat", content=BODY)
    assert "content-type" not in response.request.headers
    check_echo(service, response)


async def test_the_form_type_that_curl_sends_is_rejected_with_a_hint(
    service: FakeService,
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await service.http.post("/chat", content=BODY, headers=form)
    names = ["must be JSON", "send the header Content-Type: application/json"]
    check_refusal(*status_and_text(response), 415, names)
    assert response.headers["accept"] == "application/json"


# -- codings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODED)
async def test_a_body_with_a_known_coding_is_decoded(service: FakeService, coding: str) -> None:
    content = CODED[coding]
    check_echo(service, await post(service, content, ("Content-Encoding", coding)))
    pieces = in_pieces(content, 1)
    check_echo(service, await post(service, pieces, ("Content-Encoding", coding)))


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "aws-chunked", "*"])
async def test_an_unknown_coding_is_rejected_with_a_list_of_the_known(
    service: FakeService, coding: str
) -> None:
    response = await post(service, BODY, ("Content-Encoding", coding))
    unknown = coding.removeprefix("gzip, ")
    check_refusal(*status_and_text(response), 415, ["Content-Encoding", "gzip", unknown])
    assert response.headers["accept-encoding"] == "gzip, deflate, identity"


async def test_several_codings_are_rejected(service: FakeService) -> None:
    """A small body in two codings could keep the api busy for minutes."""
    content = gzip.compress(gzip.compress(BODY))
    one, two = [("Content-Encoding", "gzip, gzip")], [("Content-Encoding", "gzip")] * 2
    for headers in (one, two):
        response = await post(service, content, *headers)
        check_refusal(*status_and_text(response), 415, ["Content-Encoding", "one of", "gzip, gzip"])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "Deflate"])
async def test_an_incomplete_body_is_rejected(service: FakeService, coding: str) -> None:
    whole = CODED[coding]
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:1], b""):
        response = await post(service, content, ("Content-Encoding", coding))
        assert response.status_code == 400, (response.text, len(content))
        assert "body" in response.json()["detail"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_that_does_not_match_its_coding_is_rejected(
    service: FakeService, coding: str
) -> None:
    for content in (BODY, CODED[coding] + b"trailing", b"\xff" * 100):
        response = await post(service, content, ("Content-Encoding", coding))
        assert response.status_code == 400
        assert response.json()["detail"].startswith("body: ")


# -- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_the_limit_applies_after_decompression(coding: str) -> None:
    async with fake_service(ApiSettings(max_body_bytes=MAX_BYTES)) as service:
        for size, status in ((MAX_BYTES, 200), (MAX_BYTES + 1, 413), (10_000_000, 413)):
            content = body(prompt="a" * (size - len(body(prompt=""))))
            assert len(content) == size
            content = gzip.compress(content) if coding == "gzip" else zlib.compress(content)
            if len(content) > MAX_BYTES:
                continue  # refused before it is decompressed
            response = await post(service, content, ("Content-Encoding", coding))
            assert response.status_code == status, response.text
            if status == 413:
                assert f"must be at most {MAX_BYTES} bytes" in response.json()["detail"]


async def test_the_limit_applies_before_decompression() -> None:
    noise = body(prompt=random.Random(0).randbytes(MAX_BYTES).hex())
    async with fake_service(ApiSettings(max_body_bytes=MAX_BYTES)) as service:
        content = in_pieces(gzip.compress(noise), 100)
        response = await post(service, content, ("Content-Encoding", "gzip"))
        check_refusal(*status_and_text(response), 413, [f"at most {MAX_BYTES} bytes"])


async def test_the_number_of_members_is_limited(service: FakeService) -> None:
    """Empty members cost time and add no bytes."""
    empty = gzip.compress(b"")
    check_echo(
        service, await post(service, empty * 99 + CODED["gzip"], ("Content-Encoding", "gzip"))
    )
    response = await post(service, empty * 100 + CODED["gzip"], ("Content-Encoding", "gzip"))
    check_refusal(*status_and_text(response), 400, ["body", "at most 100 members"])


def status_and_text(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.text
