"""The tokenizer's routes give what transformers' tokenizer of the same checkpoint gives."""

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.clients.openai_client import HELLO, MODEL, WAIT_S
from worker.model.checkpoint.tiny import bundled_checkpoint

pytestmark = pytest.mark.integration

TALK = [*HELLO, {"role": "assistant", "content": "Good"}]
CALLS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def oracle() -> Any:
    return AutoTokenizer.from_pretrained(bundled_checkpoint())


def post(url: str, path: str, **body: Any) -> dict[str, Any]:
    response = httpx.post(f"{url}{path}", json=body, timeout=WAIT_S, trust_env=False)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@CALLS
@given(st.text(st.characters(codec="utf-8")))
def test_texts_have_the_tokens_of_transformers(url: str, oracle: Any, text: str) -> None:
    ids = oracle(text)["input_ids"]
    answer = post(url, "/tokenize", prompt=text, return_token_strs=True)
    assert (answer["tokens"], answer["count"]) == (ids, len(ids))
    assert answer["token_strs"] == oracle.convert_ids_to_tokens(ids)
    assert post(url, "/detokenize", tokens=ids) == {"prompt": oracle.decode(ids)}


@CALLS
@given(st.lists(st.integers(0, 2047), max_size=20))
def test_token_ids_have_the_text_of_transformers(url: str, oracle: Any, ids: list[int]) -> None:
    assert post(url, "/detokenize", model=MODEL, tokens=ids) == {"prompt": oracle.decode(ids)}


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        (HELLO, {}),
        (TALK, {}),
        (HELLO, {"add_generation_prompt": False}),
        (TALK, {"add_generation_prompt": False}),
        (TALK, {"add_generation_prompt": False, "continue_final_message": True}),
    ],
)
def test_conversations_have_the_tokens_of_transformers(
    url: str, oracle: Any, messages: list[dict[str, str]], fields: dict[str, bool]
) -> None:
    options = {"add_generation_prompt": True} | fields
    text = oracle.apply_chat_template(messages, tokenize=False, **options)
    expected = oracle(text, add_special_tokens=False)["input_ids"]
    assert post(url, "/tokenize", messages=messages, **fields)["tokens"] == expected


def test_the_special_tokens_have_the_names_of_transformers(url: str, oracle: Any) -> None:
    info = httpx.get(f"{url}/tokenizer_info", timeout=WAIT_S, trust_env=False).json()
    assert info["chat_template"] == oracle.chat_template
    assert (info["bos_token"], info["eos_token"]) == (oracle.bos_token, oracle.eos_token)
    assert info["model_max_length"] == oracle.model_max_length
