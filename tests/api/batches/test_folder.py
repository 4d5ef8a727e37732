"""Files of batches in a folder."""

import os
import resource
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.settings import ApiSettings
from shared.batches.file_data import FolderFileData
from shared.errors import ServiceUnavailable
from tests.fakes_api import FakeService, fake_service

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.fixture
async def service(folder: Path) -> AsyncIterator[FakeService]:
    async with fake_service(ApiSettings(files_dir=folder), with_worker=False) as running:
        yield running


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Let longer writes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def upload(service: FakeService, content: bytes) -> Any:
    files = {"file": ("in.jsonl", content)}
    return await service.http.post("/v1/files", data={"purpose": "batch"}, files=files)


async def test_a_file_is_kept_in_the_folder_until_it_is_deleted(
    service: FakeService, folder: Path
) -> None:
    content = bytes(range(256)) * 5000
    file_id = (await upload(service, content)).json()["id"]
    assert (folder / file_id).read_bytes() == content
    assert (await service.http.get(f"/v1/files/{file_id}/content")).content == content
    assert not await service.redis.keys("*file-data*")
    await service.http.delete(f"/v1/files/{file_id}")
    assert names_in(folder) == []


async def test_a_full_disk_refuses_a_file_and_keeps_nothing_of_it(
    service: FakeService, folder: Path
) -> None:
    with files_of_at_most(MIB):
        answer = await upload(service, b"x" * (2 * MIB))
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "files cannot be written: File too large"
        assert int(answer.headers["Retry-After"]) > 0
        assert names_in(folder) == []
        assert (await upload(service, b"x")).status_code == 200


async def test_a_folder_that_returns_takes_files_again(service: FakeService, folder: Path) -> None:
    shutil.rmtree(folder)
    assert (await upload(service, b"x")).status_code == 503
    os.mkdir(folder)
    assert (await upload(service, b"x")).status_code == 200


async def test_a_folder_that_turns_into_a_file_is_unavailable(folder: Path) -> None:
    """Deleting the unfinished file fails too, and does not replace the error."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"x"
        shutil.rmtree(folder)
        os.mknod(folder)

    with pytest.raises(ServiceUnavailable, match="files cannot be written: Not a directory"):
        await FolderFileData(folder).write("file-a", parts())
