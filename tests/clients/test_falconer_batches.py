"""Files and batches of `falconer.Client` and `falconer.AsyncClient`, against one service."""

import json
import uuid
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from falconer import ApiError, BatchFailed, Conflict, InvalidRequest, NotFound, WaitTimeout
from tests.clients.both_clients import Connect, link_that_cuts

pytestmark = pytest.mark.integration

TEXT = "/v1/completions"


def request(name: str, **fields: Any) -> dict[str, Any]:
    body = {"prompt": "Once upon a time", "max_tokens": 3, "temperature": 0, **fields}
    return {"custom_id": name, "method": "POST", "url": TEXT, "body": body}


def long_requests() -> list[dict[str, Any]]:
    """Return requests that take minutes."""
    return [request(f"r{i}", max_tokens=1900, ignore_eos=True) for i in range(100)]


def write(path: Path, requests: Iterable[Mapping[str, Any]]) -> Path:
    path.write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in requests))
    return path


def test_a_file_becomes_a_batch_with_a_result_per_line(
    url: str, connect: Connect, tmp_path: Path
) -> None:
    client = connect(url)
    path = write(tmp_path / "in.jsonl", [request("good"), request("bad", top_p=7)])
    batch = client.batches.submit(path, completion_window="90m", metadata={"a": "b"})
    ended = batch.wait(60)
    assert (ended.status, ended.endpoint, ended.completion_window) == ("completed", TEXT, "90m")
    counts = ended.request_counts
    assert (counts.total, counts.completed, counts.failed) == (2, 1, 1)
    assert ended.metadata == {"a": "b"}
    good, bad = batch.results()
    assert (good.custom_id, bad.custom_id) == ("good", "bad")
    assert good.body["usage"]["total_tokens"] == ended.usage.total_tokens
    assert (bad.body, bad.response.status_code) == (None, 400)
    assert client.batches.get(batch.id).info == ended
    assert next(iter(client.batches.list(limit=1))) == ended
    with pytest.raises(Conflict):
        batch.cancel()


def test_requests_in_a_list_become_a_batch(url: str, connect: Connect) -> None:
    client = connect(url)
    messages = [{"role": "user", "content": "What is a falcon?"}]
    requests = [
        {"custom_id": f"r{i}", "body": {"messages": messages, "max_tokens": 2}} for i in range(3)
    ]
    results = list(client.batches.submit(requests).results())
    assert sorted(result.custom_id for result in results) == ["r0", "r1", "r2"]
    assert all(result.body["object"] == "chat.completion" for result in results)


def test_files_are_stored_listed_read_and_deleted(
    url: str, connect: Connect, tmp_path: Path
) -> None:
    client = connect(url)
    path = write(tmp_path / "two.jsonl", [request("one")])
    file = client.files.upload(path)
    assert (file.filename, file.bytes) == ("two.jsonl", path.stat().st_size)
    assert client.files.get(file.id) == file == next(iter(client.files.list(limit=1)))
    assert b"".join(client.files.content(file.id)) == path.read_bytes()
    with pytest.raises(InvalidRequest, match="endpoint"):
        client.batches.submit(file)
    [result] = client.batches.submit(file, endpoint=TEXT).results()
    assert result.custom_id == "one"
    client.files.delete(file.id)
    for call in (client.files.get, client.files.delete):
        with pytest.raises(NotFound):
            call(file.id)


def test_a_batch_over_broken_connections_is_one_batch(url: str, connect: Connect) -> None:
    """The link cuts the upload, the answers to upload and creation, and the download."""
    direct = connect(url)
    known = {info.id for info in direct.batches.list()}
    requests = [request(f"r{i}") for i in range(40)]
    with link_that_cuts(url, 0, 20, 0, 30, 4000, 9000) as address:
        batch = connect(address).batches.submit(requests)
        direct.batches.get(batch.id).wait(60)
        results = list(batch.results())
    assert sorted(result.custom_id for result in results) == sorted(f"r{i}" for i in range(40))
    assert {info.id for info in direct.batches.list()} - known == {batch.id}


def test_a_cancelled_batch_keeps_its_results(url: str, connect: Connect) -> None:
    client = connect(url)
    batch = client.batches.submit(long_requests())
    with pytest.raises(WaitTimeout, match=batch.id):
        batch.wait(0)
    batch.cancel()
    results = {result.custom_id: result for result in batch.results()}
    assert results.keys() == {f"r{i}" for i in range(100)}
    assert results["r99"].error.code == "batch_cancelled"
    assert batch.status == "cancelled"


def test_a_file_that_is_no_batch_raises_its_errors(
    url: str, connect: Connect, tmp_path: Path
) -> None:
    client = connect(url)
    (tmp_path / "no.jsonl").write_text("no json\n{}\n")
    batch = client.batches.submit(tmp_path / "no.jsonl", endpoint=TEXT)
    for call in (batch.wait, lambda: list(batch.results())):
        with pytest.raises(BatchFailed, match=r"line 1: .*; 1 more errors") as caught:
            call()
    assert len(caught.value.errors) == 2
    with pytest.raises(InvalidRequest, match="must be readable"):
        client.batches.submit(tmp_path / "missing.jsonl")


def test_the_same_key_finds_the_same_batch(url: str, connect: Connect, tmp_path: Path) -> None:
    client, key = connect(url), uuid.uuid4().hex
    file = client.files.upload(write(tmp_path / "in.jsonl", [request("one")]))
    submit = partial(client.batches.submit, file, endpoint=TEXT, idempotency_key=key)
    batch = submit()
    assert submit().id == batch.id
    with pytest.raises(Conflict, match="Idempotency-Key"):
        submit(completion_window="2h")


def test_a_key_needs_a_stored_file(url: str, connect: Connect, tmp_path: Path) -> None:
    """Another process could not upload the same file again: it would have another id."""
    client = connect(url)
    for source in (write(tmp_path / "in.jsonl", [request("one")]), [request("one")]):
        with pytest.raises(InvalidRequest, match="must be a stored file") as caught:
            client.batches.submit(source, idempotency_key=uuid.uuid4().hex)
        assert caught.value.field == "idempotency_key"


def test_a_refused_batch_names_its_field(url: str, connect: Connect) -> None:
    with pytest.raises(ApiError) as caught:
        connect(url).batches.submit([request("one")], endpoint="/v1/embeddings")
    assert (caught.value.status, caught.value.field) == (400, "endpoint")
