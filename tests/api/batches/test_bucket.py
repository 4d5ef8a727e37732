"""Files of batches in a bucket of a real S3 server."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import pytest

from api.settings import ApiSettings
from shared.batches.bucket_data import PART_BYTES, READ_BYTES, BucketFileData
from shared.errors import ServiceUnavailable, SettingsError
from shared.process.sockets import free_port
from tests.api.api_process import run_to_its_end
from tests.api.batches.sdk import create, ended, hellos, lines_of, sdk_of
from tests.fakes_api import FakeService, fake_service

MIB = 2**20
# Port 0, so that no other process can take the port first. The end of stdin ends the server.
SERVE = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
BUCKET = "files"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
URL = f"s3://{BUCKET}/falconer/files"


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server with the bucket; yield its URL."""
    command, pipe = [sys.executable, "-c", SERVE], subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as server:  # the end of this block closes stdin
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        send("PUT", f"{url}/{BUCKET}")
        yield url


def send(method: str, url: str, body: bytes | None = None) -> bytes:
    """Send an unsigned request, which this server accepts; return the body of the response."""
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(url, method=method, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: bytes = response.read()
        return answer


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def service(s3_url: str) -> AsyncIterator[FakeService]:
    settings = ApiSettings(files_bucket=URL, files_endpoint=s3_url, max_file_bytes=32 * MIB)
    async with fake_service(settings) as running:
        yield running


def names_in(s3_url: str, query: str = "") -> set[str]:
    """Return the names of objects, or of unfinished uploads with the query `uploads`."""
    listed = ElementTree.fromstring(send("GET", f"{s3_url}/{BUCKET}?{query}"))
    keys = (one.text or "" for one in listed.iter() if one.tag.rpartition("}")[2] == "Key")
    return {key.removeprefix("falconer/files/") for key in keys}


async def in_parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), MIB):
        yield content[start : start + MIB]


async def test_a_batch_reads_and_writes_its_files_in_the_bucket(
    service: FakeService, s3_url: str
) -> None:
    async with sdk_of(service) as sdk:
        batch = await ended(sdk, await create(sdk, hellos(20)))
        assert batch.status == "completed" and batch.output_file_id is not None
        assert names_in(s3_url) == {batch.input_file_id, batch.output_file_id}
        answers = await lines_of(sdk, batch.output_file_id)
        assert {one["custom_id"] for one in answers} == {f"r{index}" for index in range(20)}
        assert not await service.redis.keys("*file-data*")
        await sdk.files.delete(batch.input_file_id)
        await service.redis.delete(service.keys.file(batch.output_file_id))  # as when it expires
        assert await service.services.redis.files.remove_expired() == 1
        assert names_in(s3_url) == set()


async def test_a_file_of_many_parts_is_read_from_any_offset(s3_url: str) -> None:
    data = BucketFileData(URL, s3_url)
    content = bytes(range(256)) * (2 * PART_BYTES // 256) + b"end"
    assert await data.write("file-a", in_parts(content)) == len(content)
    for offset in (0, 5, READ_BYTES, len(content) - 1, len(content)):
        read = [part async for part in data.read("file-a", offset)]
        assert b"".join(read) == content[offset:]
        assert all(len(part) <= READ_BYTES for part in read)
    await data.delete("file-a")
    await data.delete("file-a")
    assert [part async for part in data.read("file-a")] == []


async def test_nothing_stays_of_a_file_that_is_too_long(service: FakeService, s3_url: str) -> None:
    files = {"file": ("in.jsonl", bytes(33 * MIB))}
    answer = await service.http.post("/v1/files", data={"purpose": "batch"}, files=files)
    assert answer.status_code == 413
    assert names_in(s3_url) == names_in(s3_url, "uploads") == set()


async def test_an_unreachable_bucket_stops_no_start_but_refuses_files() -> None:
    data = BucketFileData(URL, f"http://127.0.0.1:{free_port()}")
    await data.check()
    with pytest.raises(ServiceUnavailable, match="files cannot be written"):
        await data.write("file-a", in_parts(b"x"))
    with pytest.raises(ServiceUnavailable, match="files cannot be read"):
        await anext(data.read("file-a"))


async def test_credentials_must_allow_all_that_files_need(s3_url: str) -> None:
    await BucketFileData(URL, s3_url).check()
    denied = f"arn:aws:s3:::{BUCKET}/denied/*"
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": denied}
    send("PUT", f"{s3_url}/{BUCKET}?policy", json.dumps({"Statement": [deny]}).encode())
    with pytest.raises(SettingsError, match=r"--files-bucket .*: the credentials must allow"):
        await BucketFileData(f"s3://{BUCKET}/denied", s3_url).check()


def test_a_missing_bucket_stops_the_start(s3_url: str) -> None:
    result = run_to_its_end("--files-bucket", "s3://missing", "--files-endpoint", s3_url)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines() == [
        "falconer: --files-bucket (or FALCONER_FILES_BUCKET) = 's3://missing': "
        "the bucket must exist (NoSuchBucket)"
    ]


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--files-bucket", "files"], "must be s3://BUCKET or s3://BUCKET/PATH"),
        (["--files-bucket", URL, "--files-dir", "."], "must not be set together with --files-dir"),
        (["--files-endpoint", "http://s3"], "must be set together with --files-bucket"),
        (["--files-bucket", URL, "--files-endpoint", "s3"], "must be a URL such as"),
    ],
)
def test_settings_of_the_bucket_are_checked(flags: list[str], rule: str) -> None:
    names = [name.removeprefix("--").replace("-", "_") for name in flags[::2]]
    with pytest.raises(ValueError, match=rule):
        ApiSettings(**dict(zip(names, flags[1::2], strict=True)))
