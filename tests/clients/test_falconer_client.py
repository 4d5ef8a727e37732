"""`falconer.Client` and `falconer.AsyncClient`, each against the same service.

A link between client and service cuts connections after a number of bytes.
"""

from typing import Any

import httpx
import pytest

from falconer import (
    ApiError,
    Conflict,
    InvalidRequest,
    JobFailed,
    NotFound,
    Retries,
    Unavailable,
    WaitTimeout,
)
from shared.process.sockets import free_port
from tests.clients.both_clients import Connect, link_that_cuts
from tests.clients.calls import REQUEST

pytestmark = pytest.mark.integration

PROMPT = "Once upon a time"
BRIEF: dict[str, Any] = {
    "return_full_text": False,
    "generate_kwargs": {"do_sample": False, "max_new_tokens": 16},
}
NUM_NEW = 120
LONG: dict[str, Any] = {
    "generate_kwargs": {
        "do_sample": False,
        "max_new_tokens": NUM_NEW,
        "eos_token_id": None,
        "output_scores": True,
    }
}
ENDLESS: dict[str, Any] = {"fill_context": True, "generate_kwargs": {"eos_token_id": None}}


def job_ids(client: Any) -> set[str]:
    return {info.id for info in client.jobs(limit=200)}


def test_chat_returns_the_result(url: str, expected: str, connect: Connect) -> None:
    result = connect(url).chat(PROMPT, **BRIEF)
    assert result.text == result.result == expected
    assert result.usage.completion_tokens == 16


def test_chat_answers_a_conversation(url: str, connect: Connect) -> None:
    messages = [{"role": "user", "content": "What is a falcon?"}]
    body = {"messages": messages, **BRIEF}
    answer = httpx.post(f"{url}/chat", json=body, timeout=60, trust_env=False).json()
    assert connect(url).chat(messages, **BRIEF).result == answer["Result"]


def test_a_job_is_found_by_its_id_and_waited_for(url: str, expected: str, connect: Connect) -> None:
    client = connect(url)
    job = client.submit(PROMPT, **BRIEF)
    assert job.wait(60).text == expected
    found = client.job(job.id)
    assert found.status == "succeeded"
    assert found.info.result.text == found.wait().text == expected
    assert next(iter(client.jobs("succeeded", limit=1))).id in job_ids(client)


@pytest.mark.parametrize("num_bytes", [(900, 700, 800, 1000), (200, 555, 1201, 1701, 666)])
def test_a_stream_over_broken_connections_has_every_token_once(
    url: str, connect: Connect, num_bytes: tuple[int, ...]
) -> None:
    """The link cuts inside of events, and also the answer to the submission."""
    direct = connect(url)
    [sequence] = direct.chat(PROMPT, **LONG).sequences
    before = job_ids(direct)
    with link_that_cuts(url, *num_bytes) as address:
        job = connect(address).submit(PROMPT, **LONG)
        deltas = list(job.stream())
        assert job.wait().sequences == [sequence]
    assert [delta.index for delta in deltas] == list(range(len(deltas)))
    assert "".join(delta.text for delta in deltas) == sequence.text
    assert [i for delta in deltas for i in delta.token_ids] == sequence.token_ids
    assert len(sequence.token_ids) == NUM_NEW
    assert job_ids(direct) - before == {job.id}


def test_a_stream_continues_after_an_index(url: str, connect: Connect) -> None:
    client = connect(url)
    job = client.submit(PROMPT, **LONG)
    deltas = list(job.stream())
    assert list(client.job(job.id).stream(after=50)) == deltas[51:]
    assert list(client.job(job.id).stream(after=len(deltas))) == []


def test_a_submission_whose_answer_is_lost_makes_one_job(url: str, connect: Connect) -> None:
    direct = connect(url)
    before = job_ids(direct)
    with link_that_cuts(url, 0, 20, 0) as address:
        job = connect(address).submit(PROMPT, **BRIEF)
    assert job_ids(direct) - before == {job.id}


def test_the_same_key_finds_the_same_job(url: str, connect: Connect) -> None:
    client = connect(url)
    key = f"key-{free_port()}-{connect}"
    first = client.submit(PROMPT, idempotency_key=key, **BRIEF)
    assert client.submit(PROMPT, idempotency_key=key, **BRIEF).id == first.id
    with pytest.raises(Conflict) as caught:
        client.submit("Another", idempotency_key=key, **BRIEF)
    assert caught.value.status == 409


def test_a_cancelled_job_raises_its_error_and_can_be_retried(url: str, connect: Connect) -> None:
    client = connect(url)
    job = client.submit(PROMPT, **ENDLESS)
    job.cancel()
    for wait in (job.wait, lambda: list(job.stream())):
        with pytest.raises(JobFailed, match=f"job {job.id} was cancelled") as caught:
            wait()
    assert (caught.value.status, caught.value.job.status) == (499, "cancelled")
    retried = job.retry()
    assert retried.id != job.id
    assert job.retry().id == retried.id
    assert retried.refresh().retry_of == job.id
    retried.cancel()


def test_an_ended_job_is_continued_forked_and_replayed(url: str, connect: Connect) -> None:
    seeded = {"seed": 3, "max_new_tokens": 8, "eos_token_id": None, "return_token_ids": True}
    client = connect(url)
    job = client.submit(PROMPT, generate_kwargs=seeded)
    tokens = job.wait().sequences[0].token_ids
    assert job.continue_(2).wait().sequences[0].token_ids[:8] == tokens
    fork = job.fork(4, {"seed": 4})
    assert fork.wait().sequences[0].token_ids[:4] == tokens[:4]
    assert fork.info.origin == {"kind": "fork", "job_id": job.id}
    replay = job.replay()
    replay.wait()
    assert replay.info.replay.identical
    assert replay.info.replay.source == replay.info.replay.replay
    taken = client.submit(PROMPT, generate_kwargs=seeded, reuse="finished")
    assert taken.wait().sequences[0].token_ids == tokens
    with pytest.raises(InvalidRequest, match="at: must be less than"):
        job.fork(8)


def test_a_wait_ends_with_its_timeout_and_the_job_continues(url: str, connect: Connect) -> None:
    job = connect(url).submit(PROMPT, **ENDLESS)
    with pytest.raises(WaitTimeout) as caught:
        job.wait(0)
    assert caught.value.job_id == job.id
    assert not job.refresh().status.is_terminal
    job.cancel()


def test_a_chat_that_is_given_up_cancels_its_job(url: str, connect: Connect) -> None:
    client = connect(url)
    with pytest.raises(WaitTimeout) as caught:
        client.chat(PROMPT, timeout=0, **ENDLESS)
    job = client.job(caught.value.job_id)
    with pytest.raises(JobFailed, match="was cancelled"):
        job.wait()


def test_an_error_has_its_status_and_field(url: str, connect: Connect) -> None:
    client = connect(url)
    with pytest.raises(InvalidRequest) as caught:
        client.chat(PROMPT, generate_kwargs={"temprature": 0.5})
    assert (caught.value.status, caught.value.field) == (422, "generate_kwargs.temprature")
    assert caught.value.message == "generate_kwargs.temprature: unknown parameter"
    with pytest.raises(InvalidRequest) as caught:
        client.chat("")
    assert caught.value.status == 400
    with pytest.raises(NotFound) as caught:
        client.job("0" * 32)
    assert caught.value.status == 404
    done = client.submit(PROMPT, **BRIEF)
    done.wait()
    with pytest.raises(Conflict):
        done.retry()


def test_an_answer_of_another_service_is_an_error(url: str, connect: Connect) -> None:
    with pytest.raises(ApiError, match="not Falconer's"):
        connect(url).job("..")  # finds the root
    with pytest.raises(NotFound):
        connect(f"{url}/elsewhere").submit(PROMPT)


def test_a_service_out_of_reach_is_named_after_the_last_attempt(connect: Connect) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    client = connect(address, retries=Retries(attempts=2))
    for call in (client.submit, client.chat):
        with pytest.raises(Unavailable, match=f"no answer from {address}: ") as caught:
            call(PROMPT)
        assert caught.value.status is None


@pytest.mark.parametrize(
    "address", ["localhost:8000", "ftp://host", "http://", "http://host:port", "/x"]
)
def test_an_address_that_is_not_http_is_refused(address: str, connect: Connect) -> None:
    with pytest.raises(InvalidRequest) as caught:
        connect(address)
    assert caught.value.field == "url"


def test_the_environment_names_the_service(
    url: str, expected: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALCONER_URL", url)
    prompt = str(REQUEST["prompt"])
    assert connect().chat(prompt, **BRIEF).text == expected
