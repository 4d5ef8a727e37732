"""A continued job has the tokens, the text and the scores of the longer request."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.event_reader import TIMEOUT_S

pytestmark = pytest.mark.integration

PROMPT = {"prompt": "Once upon a time", "return_full_text": False}
SHORT, ADDED = 13, 40
KWARGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"seed": 7, "top_k": 50, "temperature": 1.3},
    "penalties": {
        "seed": 3,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "no_repeat_ngram_size": 3,
    },
    "drafts": {"do_sample": False, "prompt_lookup_num_tokens": 5},
    "scores": {"seed": 5, "output_scores": True, "top_logprobs": 2},
    "three": {"seed": 9, "num_return_sequences": 3},
    "forced eos": {"do_sample": False, "forced_eos_token_id": 0},
    "decay": {"seed": 11, "exponential_decay_length_penalty": [5, 1.01]},
}
ENDLESS = {"eos_token_id": None, "return_token_ids": True}


class Client:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def ended(self, response: httpx.Response) -> dict[str, Any]:
        assert response.status_code == 202, response.text
        path = response.headers["location"]
        job: dict[str, Any] = (await self.http.get(path, params={"wait": TIMEOUT_S})).json()
        assert job["status"] == "succeeded", job
        return job

    async def run(self, max_new_tokens: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs = ENDLESS | kwargs | {"max_new_tokens": max_new_tokens}
        return await self.ended(
            await self.http.post("/jobs", json=PROMPT | {"generate_kwargs": kwargs})
        )

    async def continued(self, job: dict[str, Any], added: int) -> dict[str, Any]:
        return await self.ended(
            await self.http.post(f"/jobs/{job['id']}/continue", json={"max_new_tokens": added})
        )


def assert_equal(job: dict[str, Any], longer: dict[str, Any]) -> None:
    for found, wanted in zip(
        job["result"]["sequences"], longer["result"]["sequences"], strict=True
    ):
        for scores in ("token_logprobs", "top_logprobs"):
            if scores in wanted:
                assert len(found.pop(scores)) == len(wanted.pop(scores))
        assert found == wanted


@pytest.fixture
async def client(module_url: str) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(base_url=module_url, trust_env=False, timeout=TIMEOUT_S) as http:
        yield Client(http)


async def test_a_continued_job_equals_the_longer_request(client: Client) -> None:
    for name, kwargs in KWARGS.items():
        short = await client.run(SHORT, kwargs)
        middle = await client.continued(short, 1)
        assert middle["origin"] == {"kind": "continue", "job_id": short["id"]}
        last = await client.continued(middle, ADDED - 1)
        longer = await client.run(SHORT + ADDED, kwargs | {"seed": short["result"]["seed"]})
        assert last["result"]["sequences"][0]["token_count"] == SHORT + ADDED, name
        assert_equal(last, longer)


async def test_a_stop_string_may_begin_before_the_continuation(client: Client) -> None:
    text = (await client.run(30, {"do_sample": False}))["result"]["Result"]
    for included in (True, False):
        kwargs = {
            "do_sample": False,
            "stop_strings": [text[30:40]],
            "include_stop_str_in_output": included,
        }
        longer = await client.run(30, kwargs)
        end = longer["result"]["sequences"][0]
        assert end["finish_reason"] == "stop"
        for short in range(1, end["token_count"]):
            job = await client.continued(await client.run(short, kwargs), 30 - short)
            assert_equal(job, longer)
        path = f"/jobs/{longer['id']}/continue"
        response = await client.http.post(path, json={"max_new_tokens": 1})
        assert response.status_code == 409
        assert "the text is complete" in response.json()["detail"]
