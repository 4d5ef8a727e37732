"""A forked job equals a request with its parameters that generates the kept tokens itself."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.event_reader import TIMEOUT_S
from tests.integration.test_continue import PROMPT, Client, assert_equal

pytestmark = pytest.mark.integration

LENGTH, AT = 30, 11
GREEDY = {"do_sample": False}
SEVEN = {"seed": 7, "top_k": 50, "temperature": 1.3}


@pytest.fixture
async def client(module_url: str) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(base_url=module_url, trust_env=False, timeout=TIMEOUT_S) as http:
        yield Client(http)


async def fork(client: Client, job: dict[str, Any], at: int, **kwargs: Any) -> dict[str, Any]:
    body = {"at": at, "generate_kwargs": kwargs}
    forked = await client.ended(await client.http.post(f"/jobs/{job['id']}/fork", json=body))
    assert forked["origin"] == {"kind": "fork", "job_id": job["id"]}
    return forked


def token_ids(job: dict[str, Any]) -> list[int]:
    ids: list[int] = job["result"]["sequences"][0]["token_ids"]
    return ids


async def test_a_fork_equals_the_request_that_begins_with_the_kept_tokens(client: Client) -> None:
    """The counter of random numbers is the number of generated tokens, the kept tokens included."""
    seeded = await client.run(LENGTH, SEVEN)
    assert_equal(await fork(client, seeded, AT, seed=7), seeded)

    # Another seed acts from `AT` on, and the first seed again behind that.
    other = await fork(client, seeded, AT, seed=8)
    assert token_ids(other)[:AT] == token_ids(seeded)[:AT]
    assert token_ids(other) != token_ids(seeded)
    assert (other["result"]["seed"], len(token_ids(other))) == (8, LENGTH)
    assert_equal(await fork(client, other, AT, seed=7), seeded)

    # This parameter acts behind its start only, so that the request makes the same first tokens.
    late = {"exponential_decay_length_penalty": [AT, 1.5], "eos_token_id": 0}
    early = await client.run(LENGTH, SEVEN | {"eos_token_id": 0})
    wanted = await client.run(LENGTH, SEVEN | late)
    assert token_ids(wanted)[:AT] == token_ids(early)[:AT]
    assert_equal(await fork(client, early, AT, **(late | {"seed": 7})), wanted)

    # A longer request has the kept tokens, too.
    longer = await client.run(LENGTH + 9, SEVEN)
    assert_equal(await fork(client, seeded, AT, seed=7, max_new_tokens=LENGTH + 9), longer)


async def test_a_greedy_fork_equals_the_prompt_with_the_kept_tokens(client: Client) -> None:
    sampled = await client.run(LENGTH, SEVEN)
    prompt_ids = sampled["result"]["prompt"]["token_ids"]
    fork_job = await fork(client, sampled, AT, **GREEDY)
    kept = token_ids(sampled)[:AT]
    kwargs = {"max_new_tokens": LENGTH - AT, "eos_token_id": None, "return_token_ids": True}
    rest = await client.ended(
        await client.http.post(
            "/jobs",
            json={"prompt_token_ids": prompt_ids + kept, "generate_kwargs": GREEDY | kwargs},
        )
    )
    assert token_ids(fork_job) == kept + token_ids(rest)
    assert fork_job["result"]["Result"].startswith(sampled["result"]["Result"][:5])

    # A token that a parameter bans from `at` on only, because it does not occur before.
    greedy = await client.run(LENGTH, GREEDY)
    ids = token_ids(greedy)
    at = max(ids.index(token_id) for token_id in ids)
    banned = {"suppress_tokens": [ids[at]]}
    assert_equal(
        await fork(client, greedy, at, **banned), await client.run(LENGTH, GREEDY | banned)
    )


async def test_a_continued_fork_and_a_fork_of_a_fork(client: Client) -> None:
    seeded = await client.run(LENGTH, SEVEN)
    first = await fork(client, seeded, AT, seed=8)
    continued = await client.continued(first, 9)
    assert_equal(continued, await fork(client, seeded, AT, seed=8, max_new_tokens=LENGTH + 9))
    second = await fork(client, first, 2 * AT, seed=9)
    assert token_ids(second)[: 2 * AT] == token_ids(first)[: 2 * AT]
    assert PROMPT["prompt"] not in second["result"]["Result"]
