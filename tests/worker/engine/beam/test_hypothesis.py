"""Beam searches in the engine, over a fake model: results, failures, aborts."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import END_OF_TEXT_ID, VOCAB_SIZE, FakeRunner, engine_on_fake_runner
from tests.worker.engine.workload import Result, ScheduledRequest, run_all
from worker.engine import (
    Engine,
    FailureCause,
    FinishReason,
    Request,
    RequestFailed,
    SamplingParams,
    TokenOutput,
)

A, B, CRASH, NAN = 97, 98, 1, 2
BEAMS = SamplingParams(num_beams=3, num_return_sequences=3, max_new_tokens=6, logprobs=True)


def request(request_id: str, prompt: list[int], **changes: Any) -> Request:
    return Request(request_id=request_id, prompt_token_ids=prompt, params=replace(BEAMS, **changes))


def run(engine: Engine, *requests: Request) -> dict[str, list[TokenOutput | RequestFailed]]:
    for each in requests:
        engine.add(each)
    outputs: dict[str, list[TokenOutput | RequestFailed]] = {r.request_id: [] for r in requests}
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
    return outputs


def spell(text: str) -> FakeRunner:
    """A model that would rather say `text` after a prompt of one token, then end."""
    script = [*text.encode(), END_OF_TEXT_ID]
    return FakeRunner(next_token=lambda context: script[min(len(context), len(script)) - 1])


def search_alone(prompt: list[int], params: SamplingParams) -> Result:
    [result] = run_all(engine_on_fake_runner(), (ScheduledRequest(tuple(prompt), params),))
    return result


def test_results_come_all_at_once_each_sequence_whole_and_the_best_first() -> None:
    engine = engine_on_fake_runner()
    engine.add(request("r", [A] * 5))
    steps = []
    while engine.has_work:
        steps.append(engine.step())
    assert steps[:-1] == [[]] * 5
    outputs = [output for output in steps[-1] if isinstance(output, TokenOutput)]
    assert [output.sequence for output in outputs] == [0] * 6 + [1] * 6 + [2] * 6
    reasons = [None] * 5 + [FinishReason.LENGTH]
    assert [output.finish_reason for output in outputs] == reasons * 3
    scores = [output.score for output in outputs if output.score is not None]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_log_probabilities_add_up_to_the_score() -> None:
    for length_penalty in (0.0, 1.0, 2.0):
        params = replace(BEAMS, length_penalty=length_penalty, repetition_penalty=1.3)
        for outputs in search_alone([A], params).outputs.values():
            total = sum(output.logprob or 0.0 for output in outputs)
            assert outputs[-1].score == pytest.approx(total / 6**length_penalty)


def test_log_probabilities_are_returned_only_on_request() -> None:
    silent = search_alone([A], replace(BEAMS, logprobs=False)).outputs[0]
    assert [(output.logprob, output.top_logprobs) for output in silent] == [(None, None)] * 6
    for outputs in search_alone([A], replace(BEAMS, top_logprobs=3)).outputs.values():
        best = outputs[0].top_logprobs
        assert best is not None
        assert len(best) == 3
        assert max(best.values()) >= (outputs[0].logprob or 0.0)
        assert list(best.values()) == sorted(best.values(), reverse=True)


def test_the_pieces_of_text_keep_characters_whole() -> None:
    [result] = run_all(
        engine_on_fake_runner(spell("hé!")),
        (ScheduledRequest((A,), replace(BEAMS, max_new_tokens=4)),),
    )
    assert [output.text for output in result.outputs[0]] == ["h", "", "é", "!"]


def test_a_beam_ends_with_eos_and_says_so() -> None:
    params = replace(BEAMS, eos_token_ids=(END_OF_TEXT_ID,), early_stopping=True)
    [result] = run_all(engine_on_fake_runner(spell("hi")), (ScheduledRequest((A,), params),))
    assert result.token_ids(0) == [*b"hi", END_OF_TEXT_ID]
    assert result.outputs[0][-1].finish_reason is FinishReason.STOP
    assert result.outputs[0][-1].text == ""


@pytest.mark.parametrize("num_groups", [1, 2])
def test_a_beam_ends_with_the_token_that_completes_a_stop_string(num_groups: int) -> None:
    params = SamplingParams(
        num_beams=2,
        num_beam_groups=num_groups,
        diversity_penalty=0.5,
        max_new_tokens=20,
        stop_strings=("two",),
    )
    [result] = run_all(
        engine_on_fake_runner(spell("one two three")), (ScheduledRequest((A,), params),)
    )
    assert bytes(result.token_ids(0)) == b"one two"
    assert result.outputs[0][-1].finish_reason is FinishReason.STOP


def test_a_search_of_one_token_ends_in_its_first_step() -> None:
    result = search_alone([A], replace(BEAMS, max_new_tokens=1))
    assert sorted(result.outputs) == [0, 1, 2]
    assert len({result.token_ids(rank)[0] for rank in range(3)}) == 3


def test_rows_are_counted_as_beams() -> None:
    engine = engine_on_fake_runner(max_rows=4)
    engine.add(request("first", [A]))
    engine.add(request("second", [B]))
    assert (engine.num_running, engine.num_waiting) == (0, 6)
    rows = []
    while engine.has_work:
        engine.step()
        rows.append(engine.last_step.num_rows)
    assert rows == [1, 3, 3, 3, 3, 3] * 2


def test_batching_and_preemption_do_not_change_tokens() -> None:
    scheduled_requests = tuple(
        ScheduledRequest(
            (A + n % 3, B, B), replace(BEAMS, num_beams=3 + n % 2, max_new_tokens=12), arrives=n
        )
        for n in range(8)
    )
    alone = [
        search_alone(list(scheduled.prompt), scheduled.params) for scheduled in scheduled_requests
    ]
    engine = engine_on_fake_runner(FakeRunner(num_blocks=16), max_rows=16)
    for result, expected in zip(run_all(engine, scheduled_requests), alone, strict=True):
        assert result.outputs.keys() == expected.outputs.keys()
        assert [result.token_ids(rank) for rank in range(3)] == [
            expected.token_ids(rank) for rank in range(3)
        ]
    assert engine.scheduler.num_preemptions > 0


def test_an_aborted_search_is_silent_and_its_blocks_are_free_at_once() -> None:
    engine = engine_on_fake_runner()
    engine.add(request("gone", [A] * 9))
    for _ in range(3):
        engine.step()
    assert engine.used_kv_tokens > 0
    engine.abort("gone")
    assert engine.used_kv_tokens == 0
    assert not engine.has_work


def test_a_search_with_invalid_logits_fails_alone() -> None:
    engine = engine_on_fake_runner(FakeRunner(nan_token=NAN))
    outputs = run(engine, request("bad", [A, NAN]), request("good", [A]))
    [failed] = outputs["bad"]
    assert isinstance(failed, RequestFailed)
    assert failed.cause is FailureCause.MODEL
    assert len(outputs["good"]) == 18


def test_a_search_that_crashes_the_model_fails_alone() -> None:
    """The step is computed again for the others, which propose again."""
    engine = engine_on_fake_runner(FakeRunner(crash_token=CRASH))
    outputs = run(engine, request("good", [A]), request("bad", [CRASH]), request("other", [B]))
    assert isinstance(outputs["bad"][0], RequestFailed)
    assert outputs["good"] == run(engine_on_fake_runner(), request("good", [A]))["good"]
    assert len(outputs["other"]) == 18


@pytest.mark.parametrize("do_sample", [False, True])
def test_parameters_that_ban_every_token_fail_with_cause_parameters(do_sample: bool) -> None:
    everything = tuple(range(VOCAB_SIZE))
    bad = request("bad", [A], suppress_tokens=everything, do_sample=do_sample)
    outputs = run(engine_on_fake_runner(), bad, request("good", [A]))
    [failed] = outputs["bad"]
    assert isinstance(failed, RequestFailed)
    assert failed.cause is FailureCause.PARAMETERS
    assert len(outputs["good"]) == 18


def test_infinite_scores_are_not_returned() -> None:
    """A decay that overflows makes an eos infinitely good."""
    params = replace(
        BEAMS, eos_token_ids=(END_OF_TEXT_ID,), exponential_decay_length_penalty=(1, 1e300)
    )
    last = search_alone([A], params).outputs[0][-1]
    assert last.token_id == END_OF_TEXT_ID
    assert last.logprob is last.score is None


def test_sampling_from_infinite_scores_fails_with_cause_parameters() -> None:
    params = replace(
        BEAMS,
        do_sample=True,
        eos_token_ids=(END_OF_TEXT_ID,),
        exponential_decay_length_penalty=(1, 1e300),
    )
    failure = search_alone([A], params).failure
    assert failure is not None
    assert failure.cause is FailureCause.PARAMETERS


def test_a_resumed_beam_search_starts_over() -> None:
    engine = engine_on_fake_runner()
    resumed = replace(request("r", [A]), generated=((A, B), (B,)))
    assert run(engine, resumed) == run(engine_on_fake_runner(), request("r", [A]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": 0}, "num_beams must lie in"),
        ({"num_beam_groups": 0}, "num_beam_groups must lie in"),
        ({"num_return_sequences": 4}, r"at most num_beams \(3\), not 4"),
        ({"num_beam_groups": 2}, r"num_beam_groups \(2\) must divide num_beams \(3\)"),
        ({"num_beam_groups": 3}, "diversity_penalty must be above 0 with num_beam_groups > 1"),
        (
            {"num_beam_groups": 3, "diversity_penalty": 1.0, "do_sample": True},
            "do_sample must be off with num_beam_groups > 1",
        ),
        ({"length_penalty": 10.5}, r"length_penalty must lie in \[-10.0, 10.0\], not 10.5"),
        ({"length_penalty": float("nan")}, "length_penalty must lie in"),
        ({"pad_token_id": VOCAB_SIZE}, f"pad_token_id must hold .*, not {VOCAB_SIZE}"),
        ({"num_beams": 9}, "num_beams must be at most 8, the rows of a step, not 9"),
        ({"max_new_tokens": 90}, "3 sequences of 90 tokens cannot be held"),
    ],
)
def test_a_search_that_can_never_run_is_refused_with_its_reason(
    changes: dict[str, Any], message: str
) -> None:
    engine = engine_on_fake_runner()
    with pytest.raises(ValueError, match=message):
        engine.add(request("r", [A], **changes))
    assert not engine.has_work


def test_a_search_that_just_fits_the_cache_is_served() -> None:
    engine = engine_on_fake_runner(FakeRunner(num_blocks=3 * 8))
    outputs = run(engine, request("r", [A], max_new_tokens=32))["r"]
    assert len(outputs) == 3 * 32
