"""An invalid request gets a 4xx that names the field, and no job is enqueued."""

from typing import Any

import pytest

from api.settings import ApiSettings
from tests.api.refusals import JSON, body, check_refusal, is_refused, kwargs
from tests.fakes_api import FakeService, fake_service

# Body, status, and parts of the message: the field, and the limit if there is one.
MALFORMED: list[tuple[bytes, int, list[str]]] = [
    # Not JSON, or not an object.
    (b"", 400, ["body"]),
    (b"{", 400, ["body", "JSON"]),
    (b'{"prompt": "hello",}', 400, ["body", "JSON"]),
    (b"{'prompt': 'hello'}", 400, ["body", "JSON"]),
    (b'{"prompt": "hel\xfflo"}', 400, ["body", "JSON"]),
    (b'{"prompt": "\\ud800"}', 400, ["body", "JSON"]),
    (b'{"prompt": "hello"} trailing', 400, ["body", "JSON"]),
    (b'{"prompt": "a\nb"}', 400, ["body", "JSON"]),
    (b"\x00\x01\x02", 400, ["body", "JSON"]),
    (b'{"prompt": "a\x00b"}', 400, ["body", "JSON", "control character"]),
    (body() + b"\x00", 400, ["body", "JSON", "trailing"]),
    ('{"prompt": "h\xe9llo"}'.encode("latin-1"), 400, ["body", "JSON", "unicode"]),
    (b'{"prompt": "\xed\xa0\x80"}', 400, ["body", "JSON", "unicode"]),  # a surrogate in UTF-8
    (b'{"prompt": "\xc0\xaf"}', 400, ["body", "JSON", "unicode"]),  # an overlong spelling
    (body().decode().encode("utf-16"), 400, ["body", "JSON"]),
    (body().decode().encode("utf-16-le"), 400, ["body", "JSON"]),
    (body().decode().encode("utf-32"), 400, ["body", "JSON"]),
    (b"[" * 100_000, 400, ["body", "recursion"]),
    (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, ["body", "recursion"]),
    (b'{"prompt": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", 400, ["recursion"]),
    (kwargs('"bad_words_ids": ' + "[" * 100_000 + "]" * 100_000), 400, ["body", "recursion"]),
    (kwargs('"seed": 1' + "0" * 5000), 400, ["body", "number"]),
    (b"[]", 422, ["body", "object"]),
    (b'["prompt"]', 422, ["body", "object"]),
    (b'"prompt"', 422, ["body", "object"]),
    (b"null", 422, ["body", "object"]),
    (b"NaN", 422, ["body", "object"]),
    # Prompt and messages.
    (b"{}", 400, ["Text generation parameter prompt required"]),
    (body(prompt=""), 400, ["Text generation parameter prompt required"]),
    (body(prompt=None), 400, ["Text generation parameter prompt required"]),
    (body(prompt=None, messages=[]), 400, ["Text generation parameter prompt required"]),
    (body(prompt=5), 422, ["prompt", "string"]),
    (body(prompt=["hello", "world"]), 422, ["prompt", "string"]),
    (b'{"prompt": NaN}', 422, ["prompt", "string"]),
    (body(messages=[{"role": "user", "content": "x"}]), 422, ["messages", "prompt"]),
    (body(prompt=None, messages="hello"), 422, ["messages", "array"]),
    (body(prompt=None, messages=[{"role": "user"}]), 422, ["messages.0.content", "required"]),
    (body(prompt=None, messages=[{"content": "x"}]), 422, ["messages.0.role", "required"]),
    (body(prompt=None, messages=[{"role": "bot", "content": "x"}]), 400, ["messages.0.role"]),
    (body(prompt=None, messages=[{"role": "user", "content": [1]}]), 422, ["messages.0.content"]),
    (
        body(prompt=None, messages=[{"role": "user", "content": "x", "weight": 1}]),
        422,
        ["messages.0.weight", "unknown"],
    ),
    (
        body(prompt=None, messages=[{"role": "user", "content": "x"}] * 1025),
        422,
        ["messages", "1024"],
    ),
    (
        body(prompt=None, prefix="x", messages=[{"role": "user", "content": "x"}]),
        422,
        ["prefix", "messages"],
    ),
    # Other fields of the request.
    (body(webhook="http://x"), 422, ["webhook", "unknown"]),
    (body(model="falcon"), 404, ["no model 'falcon'", "letters"]),
    (body(prefix=1), 422, ["prefix", "string"]),
    (body(handle_long_generation="truncate"), 422, ["handle_long_generation", "hole"]),
    (body(return_full_text="yes"), 422, ["return_full_text", "boolean"]),
    (body(clean_up_tokenization_spaces=1), 422, ["clean_up_tokenization_spaces", "boolean"]),
    (body(stream="true"), 422, ["stream", "boolean"]),
    (body(priority=11), 422, ["priority", "10"]),
    (body(priority=-11), 422, ["priority", "-10"]),
    (body(priority=1.5), 422, ["priority", "integer"]),
    (body(deadline_s=0), 422, ["deadline_s", "0"]),
    (body(deadline_s=-1), 422, ["deadline_s", "0"]),
    (body(deadline_s=86400.5), 422, ["deadline_s", "86400", "86400.5"]),
    (body(deadline_s=1e9), 422, ["deadline_s", "86400"]),
    (b'{"prompt": "a", "deadline_s": NaN}', 422, ["deadline_s", "finite"]),
    (b'{"prompt": "a", "deadline_s": -Infinity}', 422, ["deadline_s", "finite"]),
    (b'{"prompt": "a", "deadline_s": %b}' % (b"9" * 400), 422, ["deadline_s", "number"]),
    (b'{"prompt": "a", "priority": NaN}', 422, ["priority", "integer"]),
    (b'{"prompt": "a", "priority": %b}' % (b"9" * 4000), 422, ["priority", "10"]),
    (b'{"prompt": "a", "prompt": 5}', 422, ["prompt", "string"]),  # the last one counts
    (body(ttl_s=0), 422, ["ttl_s", "1"]),
    (body(ttl_s=86401), 422, ["ttl_s", "86400"]),
    (body(generate_kwargs=[]), 422, ["generate_kwargs", "object"]),
    (body(generate_kwargs="max_length=5"), 422, ["generate_kwargs", "object"]),
    # Parameters that must never reach the worker.
    (kwargs('"custom_generate": "some/repo"'), 422, ["generate_kwargs.custom_generate", "unknown"]),
    (kwargs('"trust_remote_code": true'), 422, ["generate_kwargs.trust_remote_code", "unknown"]),
    (kwargs('"max_time": 0.1'), 422, ["generate_kwargs.max_time", "unknown"]),
    (kwargs('"assistant_model": "x"'), 422, ["generate_kwargs.assistant_model", "unknown"]),
    (kwargs('"logits_processor": null'), 422, ["generate_kwargs.logits_processor", "unknown"]),
    (kwargs('"use_cache": false'), 422, ["generate_kwargs.use_cache", "unknown"]),
    (kwargs('"' + "x" * 5000 + '": 1'), 422, ["unknown"]),
    # Ranges.
    (kwargs('"max_length": 0'), 422, ["generate_kwargs.max_length", "1"]),
    (kwargs('"max_length": 5'), 400, ["generate_kwargs.max_length", "5"]),
    (kwargs('"max_length": 3000'), 400, ["generate_kwargs.max_length", "2048"]),
    (kwargs('"max_length": 10.5'), 422, ["generate_kwargs.max_length", "integer", "10.5"]),
    (kwargs('"max_length": 1' + "0" * 400), 422, ["generate_kwargs.max_length", "2147483647"]),
    (kwargs('"max_new_tokens": 0'), 422, ["generate_kwargs.max_new_tokens", "1"]),
    (kwargs('"max_new_tokens": 2048'), 400, ["generate_kwargs.max_new_tokens", "2048"]),
    (kwargs('"min_length": -1'), 422, ["generate_kwargs.min_length", "0"]),
    (kwargs('"temperature": 0'), 422, ["generate_kwargs.temperature", "≥ 1e-06"]),
    (kwargs('"temperature": 1e-300'), 422, ["generate_kwargs.temperature", "≥ 1e-06"]),
    (kwargs('"temperature": NaN'), 422, ["generate_kwargs.temperature", "finite"]),
    (kwargs('"temperature": Infinity'), 422, ["generate_kwargs.temperature", "finite"]),
    (kwargs('"temperature": 1e999'), 422, ["generate_kwargs.temperature", "finite"]),
    (kwargs('"temperature": "hot"'), 422, ["generate_kwargs.temperature", "number"]),
    (kwargs('"top_k": -1'), 422, ["generate_kwargs.top_k", "≥ 0"]),
    (kwargs('"top_k": true'), 422, ["generate_kwargs.top_k", "integer", "got true"]),
    (kwargs('"top_p": 0'), 422, ["generate_kwargs.top_p", "> 0", "≤ 1"]),
    (kwargs('"top_p": 1.5'), 422, ["generate_kwargs.top_p", "> 0", "≤ 1"]),
    (kwargs('"typical_p": 0'), 422, ["generate_kwargs.typical_p", "> 0"]),
    (kwargs('"repetition_penalty": 0'), 422, ["generate_kwargs.repetition_penalty", "0.000001"]),
    (kwargs('"sequence_bias": [[[1], 1e308]]'), 422, ["sequence_bias.0.1", "1" + "0" * 20]),
    (
        kwargs('"exponential_decay_length_penalty": [0, 1e300]'),
        422,
        ["generate_kwargs.exponential_decay_length_penalty.1", "100"],
    ),
    (kwargs('"num_beams": 0'), 422, ["generate_kwargs.num_beams", "1"]),
    (kwargs('"num_beams": 9'), 422, ["generate_kwargs.num_beams", "at most 8", "got 9"]),
    (
        kwargs('"num_beams": 4, "num_beam_groups": 3, "do_sample": false'),
        422,
        ["generate_kwargs.num_beam_groups", "4"],
    ),
    (
        kwargs('"early_stopping": "soon"'),
        422,
        ["generate_kwargs.early_stopping", 'true, false or "never"'],
    ),
    (kwargs('"sequence_bias": [[[1], 2, 3]]'), 422, ["sequence_bias.0: must have at most 2"]),
    (
        kwargs('"num_return_sequences": 2, "do_sample": false'),
        422,
        ["generate_kwargs.num_return_sequences", "1"],
    ),
    (kwargs('"num_return_sequences": 9'), 422, ["generate_kwargs.num_return_sequences", "8"]),
    (kwargs('"no_repeat_ngram_size": -1'), 422, ["generate_kwargs.no_repeat_ngram_size", "0"]),
    (kwargs('"bad_words_ids": [[257]]'), 422, ["generate_kwargs.bad_words_ids.0", "257"]),
    (kwargs('"bad_words_ids": [["no"]]'), 422, ["generate_kwargs.bad_words_ids.0.0", "integer"]),
    (kwargs('"eos_token_id": 257'), 422, ["generate_kwargs.eos_token_id", "257"]),
    (kwargs('"eos_token_id": -1'), 422, ["generate_kwargs.eos_token_id.0", "0"]),
    (kwargs('"stop_strings": []'), 422, ["generate_kwargs.stop_strings", "1"]),
    (kwargs(f'"stop_strings": ["{"a" * 10**6}"]'), 422, ["generate_kwargs.stop_strings.0", "1024"]),
    (kwargs('"length_penalty": -1e308'), 422, ["generate_kwargs.length_penalty", "-10"]),
    (kwargs('"suppress_tokens": [9223372036854775808]'), 422, ["suppress_tokens.0", "2147483647"]),
    (kwargs('"seed": -1'), 422, ["generate_kwargs.seed", "0"]),
    (kwargs('"seed": 9223372036854775808'), 422, ["generate_kwargs.seed", "9223372036854775807"]),
    (kwargs('"top_logprobs": 21'), 422, ["generate_kwargs.top_logprobs", "20"]),
    (kwargs('"return_dict_in_generate": "no"'), 422, ["generate_kwargs.return_dict_in_generate"]),
]


MANY_UNKNOWN = {f"unknown_{i}": i for i in range(10_000)}
# Each within all limits, with thousands of invalid items: body, and parts of the one error.
ALL_WRONG = [
    (kwargs(f'"bad_words_ids": {[[-1] * 200] * 1024}'), "generate_kwargs.bad_words_ids.0.0: "),
    (body(prompt=None, messages=[{}] * 1024), "messages.0.role: "),
    (body(prompt=None, messages=[1] * 1024), "messages.0: "),
    (body(**MANY_UNKNOWN), "body: 10000 unknown parameters, the first is unknown_0"),
    (body(generate_kwargs=MANY_UNKNOWN), "generate_kwargs: 10000 unknown parameters, "),
    (body(prompt=None, messages=[MANY_UNKNOWN]), "messages.0: 10000 unknown parameters, "),
]

NEGATIVE = [
    *(
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "num_beams",
        "top_k",
        "top_p",
    ),
    *("num_beam_groups", "num_return_sequences", "temperature", "typical_p", "min_p", "seed"),
    *("repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("epsilon_cutoff", "eta_cutoff", "top_logprobs", "pad_token_id", "eos_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "top_p"),
]
# A million of each; such a body passes a raised `max_body_bytes`.
A_MILLION = {
    "stop_strings": '"a"',
    "bad_words_ids": "[1]",
    "suppress_tokens": "1",
    "sequence_bias": "[[1], 1.0]",
    "eos_token_id": "1",
}


@pytest.mark.parametrize("path", ["/chat", "/jobs"])
async def test_the_error_for_an_invalid_body_names_the_field_and_enqueues_nothing(
    service: FakeService, path: str
) -> None:
    wrong = []
    for content, expected, names in MALFORMED:
        response = await service.http.post(path, content=content, headers=JSON)
        if not is_refused(response.status_code, response.text, expected, names):
            wrong.append((content[:80], names, response.status_code, response.text))
    assert wrong == []
    assert service.worker.seen == []
    assert await service.num_queued() == 0


@pytest.mark.parametrize("name", NEGATIVE)
async def test_a_negative_value_is_refused(service: FakeService, name: str) -> None:
    response = await service.http.post("/jobs", content=kwargs(f'"{name}": -1'), headers=JSON)
    check_refusal(response.status_code, response.text, 422, [name])
    assert await service.num_queued() == 0


async def test_the_error_for_a_million_items_has_their_number() -> None:
    async with fake_service(ApiSettings(max_body_bytes=20_000_000)) as service:
        for name, item in A_MILLION.items():
            content = kwargs(f'"{name}": [{",".join([item] * 10**6)}]')
            response = await service.http.post("/chat", content=content, headers=JSON)
            names = [f"generate_kwargs.{name}", "not 1000000"]
            check_refusal(response.status_code, response.text, 422, names)
        assert await service.num_queued() == 0


async def test_checks_without_a_model_run_before_a_model_is_registered(
    workerless: FakeService,
) -> None:
    for content in (b"{}", body(prompt=""), kwargs('"top_p": 7'), body(webhook="x")):
        response = await workerless.http.post("/jobs", content=content, headers=JSON)
        assert response.status_code in (400, 422)
    assert await workerless.num_queued() == 0


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_with_and_without_content_length(
    is_chunked: bool,
) -> None:
    content = body(prompt="a" * 2000)

    async def chunks() -> Any:
        for start in range(0, len(content), 100):
            yield content[start : start + 100]

    async with fake_service(ApiSettings(max_body_bytes=1000)) as service:
        response = await service.http.post(
            "/chat", content=chunks() if is_chunked else content, headers=JSON
        )
        check_refusal(response.status_code, response.text, 413, ["body", "1000"])
        assert await service.num_queued() == 0


async def test_errors_do_not_repeat_the_text_of_the_request(service: FakeService) -> None:
    response = await service.http.post(
        "/chat", content=body(prompt=["my secret"], prefix=["my secret"]), headers=JSON
    )
    assert response.status_code == 422
    assert "secret" not in response.text


async def test_errors_show_the_start_of_a_huge_number(service: FakeService) -> None:
    content = kwargs('"seed": 1' + "0" * 4000)
    response = await service.http.post("/chat", content=content, headers=JSON)
    assert response.json()["detail"].endswith("got 1" + "0" * 99 + "…")


async def test_an_error_lists_five_fields_and_counts_the_others(service: FakeService) -> None:
    unknown = {f"unknown_{i}": i for i in range(100)}
    response = await service.http.post("/chat", json={"prompt": "x", "generate_kwargs": unknown})
    check_refusal(response.status_code, response.text, 422, ["95 more"])


@pytest.mark.parametrize(("content", "start"), ALL_WRONG)
async def test_validation_stops_at_the_first_invalid_item_of_a_list(
    service: FakeService, content: bytes, start: str
) -> None:
    """Hundreds of thousands of errors would delay all other requests by seconds."""
    response = await service.http.post("/chat", content=content, headers=JSON)
    check_refusal(response.status_code, response.text, 422, [start])
    assert response.json()["detail"].startswith(start)
    assert "more" not in response.json()["detail"]
