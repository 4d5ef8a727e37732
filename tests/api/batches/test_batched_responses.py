"""Lines of `/v1/responses` in a batch."""

from typing import Any

import openai
from openai.types.responses import Response

from tests.api.batches.sdk import RESPONSES, create, ended, jsonl, line, lines_of
from tests.fakes_api import FakeService


async def test_a_batch_of_responses(service: FakeService, sdk: openai.AsyncOpenAI) -> None:
    request: dict[str, Any] = {"input": "hello", "instructions": "be brief"}
    body = request | {"seed": 1}
    extra = {
        "background": {"background": True},
        "turn": {"previous_response_id": "resp_0"},
        "stored": {"store": True},
    }
    lines = [line("good", body, RESPONSES)]
    lines += [line(name, body | fields, RESPONSES) for name, fields in extra.items()]
    batch = await ended(sdk, await create(sdk, jsonl(lines), RESPONSES))
    [answer] = await lines_of(sdk, batch.output_file_id)
    response = Response.model_validate(answer["response"]["body"])
    direct = await sdk.responses.create(**request, extra_body={"seed": 1})
    assert response.id == f"resp_{answer['response']['request_id']}"
    assert (response.output_text, response.instructions) == (direct.output_text, "be brief")
    assert (response.status, response.store) == (direct.status, False)
    assert batch.usage is not None and batch.usage.total_tokens == response.usage.total_tokens
    errors = {one["custom_id"]: one["response"] for one in await lines_of(sdk, batch.error_file_id)}
    assert {name: one["body"]["error"]["param"] for name, one in errors.items()} == {
        "background": "background",
        "turn": "previous_response_id",
        "stored": "store",
    }
