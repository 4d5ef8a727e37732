"""Requests of the tests with OpenAI's client, and the result of `/chat` to compare with."""

from typing import Any

import httpx

WAIT_S = 120.0
MODEL = "tiny"
HELLO = [{"role": "user", "content": "Hello"}]


def chat(url: str, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
    """Return the result of `/chat` for a prompt or the conversation, greedy by default."""
    body = {"prompt": prompt} if prompt else {"messages": HELLO}
    kwargs = {"do_sample": False, "top_k": 0, "return_token_ids": True, **kwargs}
    body |= {"return_full_text": False, "generate_kwargs": kwargs}
    response = httpx.post(f"{url}/chat", json=body, timeout=WAIT_S, trust_env=False)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result
