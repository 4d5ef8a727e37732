"""Conversations, as clients of OpenAI's interface send them."""

from typing import Any

import pytest

from shared.protocol import ChatJob, Message
from tests.api.refusals import check_refusal
from tests.fakes_api import FakeService

# An answer in OpenAI's Python client: `response.choices[0].message.model_dump()`.
ANSWER = {
    "content": "Falcons.",
    "refusal": None,
    "role": "assistant",
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": None,
}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def user(**fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": "x"} | fields


UNREADABLE: list[tuple[dict[str, Any], list[str]]] = [
    (
        user(content=[text("a"), {"type": "image_url", "image_url": {"url": "x"}}]),
        ["image_url"],
    ),
    (user(content=[{"type": "input_audio", "input_audio": {}}]), ["part 0", "input_audio"]),
    (user(content=[text("a"), {"type": "refusal", "refusal": "x"}]), ["part 1", "refusal"]),
    (user(content=[{"text": "a"}]), ["part 0", '"text"']),
    (user(content=[{"type": "text"}]), ["part 0", "string"]),
    (user(content=[{"type": "text", "text": 5}]), ["part 0", "string"]),
    (user(content=[{"type": 5, "text": "a"}]), ["part 0", '"text"']),
    (user(content=[text("a") | {"cache_control": {}}]), ["part 0", "cache_control"]),
    (user(content=["a"]), ["part 0", "object"]),
    (user(content=[]), ["at least one part"]),
    (user(content=[[text("a")]]), ["part 0", "object"]),
    (user(content=None), ["messages.0.content", "string"]),
    (user(content=text("a")), ["messages.0.content", "string"]),
    (user(role=None), ["messages.0.role", "string"]),
    (user(name=5), ["messages.0.name", "string"]),
    (user(name="a" * 256), ["messages.0.name", "255"]),
    (user(tool_calls=[{"id": "1"}]), ["messages.0.tool_calls", "not call tools"]),
    (user(tool_call_id="1"), ["messages.0.tool_call_id", "not call tools"]),
    (user(function_call={"name": "f"}), ["messages.0.function_call", "not call tools"]),
    (user(audio={"id": "1"}), ["messages.0.audio", "text"]),
    (user(annotations=[{"type": "url"}]), ["messages.0.annotations", "text"]),
    (user(refusal="no"), ["messages.0.refusal"]),
]


async def submitted(service: FakeService, **fields: Any) -> ChatJob:
    """Return the job that the worker received."""
    response = await service.http.post("/jobs", json=fields)
    assert response.status_code == 202, response.text
    await service.until(lambda: service.worker.seen)
    return service.worker.seen.pop()


async def test_text_parts_are_concatenated(service: FakeService) -> None:
    parts = [text("What "), text("flies"), text("?\n"), text("")]
    job = await submitted(service, messages=[user(content=parts)])
    assert job.messages == (Message(role="user", content="What flies?\n"),)


async def test_text_in_parts_has_the_same_fingerprint(service: FakeService) -> None:
    ids = set()
    for content in ("What flies?", [text("What "), text("flies?")]):
        body = {"messages": [user(content=content)]}
        response = await service.http.post("/jobs", json=body, headers={"Idempotency-Key": "k"})
        ids.add(response.json()["id"])
    assert len(ids) == 1


async def test_the_prompt_has_the_name_of_a_message(service: FakeService) -> None:
    job = await submitted(service, messages=[user(name="Ann"), user(name=None)])
    assert [message.name for message in job.messages or ()] == ["Ann", None]


async def test_an_answer_of_openais_client_is_a_valid_message(service: FakeService) -> None:
    job = await submitted(service, messages=[user(), ANSWER, user()])
    assert (job.messages or ())[1] == Message(role="assistant", content="Falcons.")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "a", "messages": []}, ("a", None)),
        ({"prompt": "a", "messages": None}, ("a", None)),
        ({"prompt": "", "messages": [user()]}, (None, (Message("user", "x"),))),
        ({"prompt": None, "messages": [user()]}, (None, (Message("user", "x"),))),
    ],
)
async def test_an_empty_prompt_or_empty_messages_are_ignored(
    service: FakeService,
    fields: dict[str, Any],
    expected: tuple[str | None, tuple[Message, ...] | None],
) -> None:
    job = await submitted(service, **fields)
    assert (job.prompt, job.messages) == expected


async def test_the_error_for_an_invalid_message_names_the_field(service: FakeService) -> None:
    for message, names in UNREADABLE:
        response = await service.http.post("/chat", json={"messages": [message]})
        check_refusal(response.status_code, response.text, 422, ["messages.0", *names])
    assert await service.num_queued() == 0


async def test_the_error_for_an_unknown_role_names_it(service: FakeService) -> None:
    for role in ("tool", "function", "developer"):
        response = await service.http.post("/chat", json={"messages": [user(role=role)]})
        check_refusal(response.status_code, response.text, 400, ["messages.0.role", role, "system"])


async def test_the_error_for_tools_names_them(service: FakeService) -> None:
    for name in ("tools", "tool_choice", "functions", "response_format"):
        response = await service.http.post("/chat", json={"messages": [user()], name: None})
        check_refusal(response.status_code, response.text, 422, [name, "unknown"])
