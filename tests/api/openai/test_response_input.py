"""The input of `/v1/responses`: its items, and the conversation that it continues."""

from typing import Any

from openai.types.responses.input_token_count_response import InputTokenCountResponse
from openai.types.responses.response_item_list import ResponseItemList

from api.settings import ApiSettings
from tests.api.openai.test_responses import PATH, create
from tests.fakes_api import FakeService, fake_service


async def test_input_items_are_listed_in_pages(service: FakeService) -> None:
    items = [{"role": "user", "content": f"message {index}"} for index in range(5)]
    response = await create(service, input=items, instructions="not listed")
    path, texts, after = f"{PATH}/{response['id']}/input_items", [], None
    while True:
        params = {"limit": 2, "order": "asc"} | ({"after": after} if after else {})
        page = (await service.http.get(path, params=params)).json()
        ResponseItemList.model_validate(page)
        texts += [item["content"][0]["text"] for item in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert texts == [item["content"] for item in items]
    newest = (await service.http.get(path)).json()["data"]
    assert [item["content"][0]["text"] for item in newest] == texts[::-1]
    wrong = await service.http.get(path, params={"after": "msg_0"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")


async def test_a_response_continues_an_earlier_conversation(service: FakeService) -> None:
    """Its job has the messages of the same conversation, without the earlier instructions."""
    first = await create(service, input="one", instructions="be brief")
    second = await create(service, input="two", previous_response_id=first["id"])
    await create(service, input="three", previous_response_id=second["id"], instructions="go on")
    messages = [
        (message.role, message.content) for message in service.worker.seen[-1].messages or ()
    ]
    assert messages == [
        ("system", "go on"),
        ("user", "one"),
        ("assistant", " HELLO"),
        ("user", "two"),
        ("assistant", " HELLO"),
        ("user", "three"),
    ]
    listed = (await service.http.get(f"{PATH}/{second['id']}/input_items")).json()["data"]
    assert [item["role"] for item in listed] == ["user", "assistant", "user"]


async def test_the_tokens_of_an_input_are_counted_without_a_job(service: FakeService) -> None:
    """The count is the length of the job's prompt, and may exceed the context."""
    first = await create(service, input="one")
    for fields in (
        {"input": "two", "previous_response_id": first["id"], "instructions": "be brief"},
        {"input": [{"role": "developer", "content": "a" * 10}, {"role": "user", "content": "b"}]},
    ):
        raw = await service.http.post(f"{PATH}/input_tokens", json=fields)
        InputTokenCountResponse.model_validate(raw.json())
        response = await create(service, **fields)
        assert raw.json()["input_tokens"] == response["usage"]["input_tokens"]
    num_jobs = len(service.worker.seen)
    long = (await service.http.post(f"{PATH}/input_tokens", json={"input": "a" * 9000})).json()
    assert 9000 < long["input_tokens"] < 9100
    unknown = await service.http.post(f"{PATH}/input_tokens", json={"input": "a", "model": "b"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
    assert len(service.worker.seen) == num_jobs


async def test_tokens_are_counted_once_a_model_is_registered(workerless: FakeService) -> None:
    raw = await workerless.http.post(f"{PATH}/input_tokens", json={"input": "hi"})
    assert raw.status_code == 503 and int(raw.headers["retry-after"]) > 0


async def test_an_earlier_response_must_have_ended(workerless: FakeService) -> None:
    waiting = await create(workerless, background=True)
    for previous, code in (
        (waiting["id"], "invalid_value"),
        ("resp_unknown", "previous_response_not_found"),
    ):
        body = {"input": "hi", "previous_response_id": previous}
        raw = await workerless.http.post(PATH, json=body)
        error = raw.json()["error"]
        assert raw.status_code == 400
        assert (error["param"], error["code"]) == ("previous_response_id", code)


async def test_a_conversation_is_as_long_as_one_request_at_most() -> None:
    async with fake_service(ApiSettings(max_body_bytes=2000)) as service:
        fields: dict[str, Any] = {"truncation": "auto", "max_output_tokens": 5}
        first = await create(service, input="a" * 1500, **fields)
        body = {"input": "b" * 600, "previous_response_id": first["id"]} | fields
        raw = await service.http.post(PATH, json=body)
        error = raw.json()["error"]
        assert (raw.status_code, error["param"]) == (400, "previous_response_id")
        assert "2000 bytes" in error["message"]


async def test_truncation_leaves_room_for_an_answer(service: FakeService) -> None:
    await create(service, input="a" * 3000, truncation="auto")
    job = service.worker.seen[0]
    assert (len(job.token_ids or ()), job.max_new_tokens) == (2048 - 200, 200)
