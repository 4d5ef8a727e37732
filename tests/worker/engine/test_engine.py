"""The engine over a fake model: text, ends, isolation of failures, no leaks."""

from typing import Any

import pytest

from tests.fakes import END_OF_TEXT, END_OF_TEXT_ID, FakeRunner, engine_on_fake_runner
from tests.worker.engine.fake_requests import A, B, expected, request, run_to_end, tokens
from worker.engine import (
    FinishReason,
    Request,
    SamplingParams,
)


def spell(text: str) -> FakeRunner:
    """Make a model that generates `text` after a prompt of one token, then ends."""
    script = [*text.encode(), END_OF_TEXT_ID]
    return FakeRunner(next_token=lambda context: script[min(len(context), len(script)) - 1])


def test_an_idle_engine_steps_without_output() -> None:
    engine = engine_on_fake_runner()
    assert not engine.has_work
    assert engine.step() == []
    assert engine.last_step.num_rows == 0


def test_a_request_runs_to_its_length() -> None:
    engine = engine_on_fake_runner()
    engine.add(request("r", [A] * 30, max_new_tokens=9))
    outputs = tokens(run_to_end(engine)["r"])
    assert [o.token_id for o in outputs] == expected([A] * 30, 9)
    assert [o.finish_reason for o in outputs] == [None] * 8 + [FinishReason.LENGTH]


def test_eos_ends_a_sequence_and_has_no_text() -> None:
    engine = engine_on_fake_runner(spell("hé!"))
    engine.add(request("r", [A], eos_token_ids=(END_OF_TEXT_ID,)))
    outputs = tokens(run_to_end(engine)["r"])
    assert [o.text for o in outputs] == ["h", "", "é", "!", ""]
    assert outputs[-1].token_id == END_OF_TEXT_ID
    assert outputs[-1].finish_reason is FinishReason.STOP


def test_without_eos_ids_nothing_stops_early() -> None:
    engine = engine_on_fake_runner(spell("hi"))
    engine.add(request("r", [A], max_new_tokens=6))
    assert [o.finish_reason for o in tokens(run_to_end(engine)["r"])][-1] is FinishReason.LENGTH


def test_the_last_output_flushes_an_incomplete_character() -> None:
    engine = engine_on_fake_runner(spell("é"))
    engine.add(request("r", [A], max_new_tokens=1))
    assert [o.text for o in tokens(run_to_end(engine)["r"])] == ["\ufffd"]


def test_a_stop_string_ends_after_the_token_that_completes_it() -> None:
    engine = engine_on_fake_runner(spell("one two three"))
    engine.add(request("r", [A], stop_strings=("two",)))
    outputs = tokens(run_to_end(engine)["r"])
    assert "".join(o.text for o in outputs) == "one two"
    assert outputs[-1].finish_reason is FinishReason.STOP


def test_a_special_token_may_be_a_stop_string() -> None:
    engine = engine_on_fake_runner(spell("hi"))
    engine.add(request("r", [A], stop_strings=(END_OF_TEXT,)))
    assert len(tokens(run_to_end(engine)["r"])) == 3


def test_requests_join_and_leave_between_steps() -> None:
    engine = engine_on_fake_runner()
    engine.add(request("long", [A], max_new_tokens=10))
    engine.step()
    engine.add(request("short", [B], max_new_tokens=2))
    rows = []
    while engine.has_work:
        engine.step()
        rows.append(engine.last_step.num_rows)
    assert rows == [2, 2, 1, 1, 1, 1, 1, 1, 1]


def test_every_sequence_of_a_request_reports_under_its_own_index() -> None:
    engine = engine_on_fake_runner(max_rows=2)
    engine.add(request("r", [A], max_new_tokens=3, num_return_sequences=5, do_sample=True))
    outputs = run_to_end(engine)["r"]
    assert [len(tokens(outputs, index)) for index in range(5)] == [3] * 5


def test_an_aborted_request_is_silent_and_its_blocks_are_free_at_once() -> None:
    engine = engine_on_fake_runner()
    engine.add(request("gone", [A] * 9))
    engine.add(request("kept", [B], max_new_tokens=4))
    engine.step()
    engine.abort("gone")
    assert engine.used_kv_tokens == 4
    engine.abort("gone")
    engine.abort("unknown")
    outputs = run_to_end(engine)
    assert set(outputs) == {"kept"}
    engine.add(request("gone", [A]))


def test_a_resumed_request_continues_where_the_earlier_attempt_stopped() -> None:
    prompt = [A, B]
    whole = expected(prompt, 8)
    engine = engine_on_fake_runner()
    params = SamplingParams(max_new_tokens=8)
    engine.add(
        Request(
            request_id="r", prompt_token_ids=prompt, params=params, generated=(tuple(whole[:5]),)
        )
    )
    outputs = tokens(run_to_end(engine)["r"])
    assert [o.token_id for o in outputs] == whole[5:]
    assert "".join(o.text for o in outputs) == bytes(whole[5:]).decode()


def test_a_resumed_request_samples_the_tokens_of_an_uninterrupted_one() -> None:
    flat = FakeRunner(next_token=lambda context: len(context) % 2)
    params = SamplingParams(
        max_new_tokens=8, do_sample=True, temperature=9.0, seed=5, num_return_sequences=2
    )
    whole = engine_on_fake_runner(flat)
    whole.add(Request(request_id="r", prompt_token_ids=[A], params=params))
    outputs = run_to_end(whole)["r"]
    first, second = ([o.token_id for o in tokens(outputs, index)] for index in range(2))
    assert first != second
    resumed = engine_on_fake_runner(FakeRunner(next_token=lambda context: len(context) % 2))
    generated = (tuple(first[:3]), tuple(second))
    resumed.add(Request(request_id="r", prompt_token_ids=[A], params=params, generated=generated))
    outputs = run_to_end(resumed)["r"]
    assert [o.token_id for o in tokens(outputs, 0)] == first[3:]
    assert tokens(outputs, 1) == []


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "prompt_token_ids must hold at least one token"),
        (
            [A, 257],
            {},
            r"prompt_token_ids must hold token ids in \[0, 257\), the vocabulary, not 257",
        ),
        ([-1], {}, "prompt_token_ids must hold .*, not -1"),
        ([A], {"max_new_tokens": 0}, r"max_new_tokens must lie in \[1, 2147483647\], not 0"),
        ([A] * 60, {"max_new_tokens": 5}, "must be at most 64, the model's context, not 60 [+] 5"),
        ([A], {"max_new_tokens": 41}, "41 tokens cannot be held: the KV cache has room for 40"),
        ([A], {"num_return_sequences": 0}, "num_return_sequences must lie in"),
        ([A], {"do_sample": True, "temperature": 0.0}, "temperature must lie in"),
        ([A], {"seed": 2**63}, "seed must lie in"),
        ([A], {"stop_strings": ("x", "")}, "stop_strings must hold no empty string"),
        ([A], {"bad_words_ids": ((1, 300),)}, "bad_words_ids must hold .*, not 300"),
        ([A], {"bad_words_ids": ((),)}, "bad_words_ids must hold no empty sequence"),
        ([A], {"sequence_bias": (((), 1.0),)}, "sequence_bias must hold no empty sequence"),
        ([A], {"sequence_bias": (((300,), 1.0),)}, "sequence_bias must hold .*, not 300"),
        ([A], {"suppress_tokens": (300,)}, "suppress_tokens must hold .*, not 300"),
        ([A], {"begin_suppress_tokens": (300,)}, "begin_suppress_tokens must hold .*, not 300"),
        ([A], {"forced_eos_token_ids": (300,)}, "forced_eos_token_ids must hold .*, not 300"),
        ([A], {"forced_bos_token_id": 300}, "forced_bos_token_id must hold .*, not 300"),
        (
            [A],
            {"forced_bos_token_id": 3, "suppress_tokens": (3,)},
            "forced_bos_token_id must hold a token",
        ),
        (
            [A],
            {"forced_eos_token_ids": (3,), "suppress_tokens": (3, 4)},
            "that is not in suppress_tokens",
        ),
    ],
)
def test_a_request_that_can_never_run_is_refused_with_its_reason(
    prompt: list[int], params: dict[str, Any], message: str
) -> None:
    engine = engine_on_fake_runner(FakeRunner(num_blocks=10), context_length=64)
    with pytest.raises(ValueError, match=message):
        engine.add(request("r", prompt, **params))
    assert not engine.has_work


def test_a_request_that_just_fits_the_cache_is_served() -> None:
    engine = engine_on_fake_runner(FakeRunner(num_blocks=10))
    engine.add(request("r", [A], max_new_tokens=40))
    assert len(run_to_end(engine)["r"]) == 40


def test_a_request_id_can_be_used_once_at_a_time() -> None:
    engine = engine_on_fake_runner()
    engine.add(request("r", [A], max_new_tokens=1))
    with pytest.raises(ValueError, match="request id r is in use"):
        engine.add(request("r", [B]))
    run_to_end(engine)
    engine.add(request("r", [B]))


@pytest.mark.parametrize(
    ("generated", "message"),
    [
        (((A,), (A,)), "generated must hold at most 1 sequences"),
        (((A, A, A, A),), "generated must hold at most 3 tokens per sequence"),
        (((A, 300),), "generated must hold .*, not 300"),
        (((A, A, A),), "request r is complete"),
        (((A, END_OF_TEXT_ID),), "request r is complete"),
        (((ord("x"), ord("y")),), "request r is complete"),
    ],
)
def test_a_request_that_its_generated_tokens_complete_is_refused(
    generated: tuple[tuple[int, ...], ...], message: str
) -> None:
    params = SamplingParams(max_new_tokens=3, eos_token_ids=(END_OF_TEXT_ID,), stop_strings=("xy",))
    with pytest.raises(ValueError, match=message):
        engine_on_fake_runner().add(
            Request(request_id="r", prompt_token_ids=[A], params=params, generated=generated)
        )


def test_an_eos_id_outside_the_vocabulary_just_never_occurs() -> None:
    engine = engine_on_fake_runner()
    engine.add(request("r", [A], max_new_tokens=3, eos_token_ids=(50256,), min_length=3))
    assert len(run_to_end(engine)["r"]) == 3
