"""The engine's promises over a fake model: text, ends, failures that stay alone, no leaks."""

import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.fakes import END_OF_TEXT, END_OF_TEXT_ID, FakeRunner, fake_engine, hashed_letter
from worker.engine import (
    Blame,
    Engine,
    EngineBroken,
    FinishReason,
    Output,
    Request,
    RequestFailed,
    SamplingParams,
    TokenOutput,
)
from worker.engine.scheduling.step_plan import StepPlan

A, B, CRASH, NAN = 97, 98, 1, 2


def request(request_id: str, prompt: list[int], **params: Any) -> Request:
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt,
        params=SamplingParams(**params),
    )


def run_to_end(engine: Engine) -> dict[str, list[Output]]:
    """Every output by request id."""
    outputs: defaultdict[str, list[Output]] = defaultdict(list)
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert engine.used_kv_tokens == 0, "blocks leaked"
    return outputs


def tokens(outputs: list[Output], sequence: int = 0) -> list[TokenOutput]:
    return [o for o in outputs if isinstance(o, TokenOutput) and o.sequence == sequence]


def expected(prompt: list[int], count: int) -> list[int]:
    context = list(prompt)
    for _ in range(count):
        context.append(hashed_letter(context))
    return context[len(prompt) :]


def spell(text: str) -> FakeRunner:
    """A model that says `text` after a prompt of one token, then ends."""
    script = [*text.encode(), END_OF_TEXT_ID]
    return FakeRunner(next_token=lambda context: script[min(len(context), len(script)) - 1])


def test_an_idle_engine_steps_without_output() -> None:
    engine = fake_engine()
    assert not engine.has_work
    assert engine.step() == []
    assert engine.last_step.num_rows == 0


def test_a_request_runs_to_its_length() -> None:
    engine = fake_engine()
    engine.add(request("r", [A] * 30, max_new_tokens=9))
    outputs = tokens(run_to_end(engine)["r"])
    assert [o.token_id for o in outputs] == expected([A] * 30, 9)
    assert [o.finish_reason for o in outputs] == [None] * 8 + [FinishReason.LENGTH]


def test_eos_ends_a_sequence_and_has_no_text() -> None:
    engine = fake_engine(spell("hé!"))
    engine.add(request("r", [A], eos_token_ids=(END_OF_TEXT_ID,)))
    outputs = tokens(run_to_end(engine)["r"])
    assert [o.text for o in outputs] == ["h", "", "é", "!", ""]
    assert outputs[-1].token_id == END_OF_TEXT_ID
    assert outputs[-1].finish_reason is FinishReason.STOP


def test_without_eos_ids_nothing_stops_early() -> None:
    engine = fake_engine(spell("hi"))
    engine.add(request("r", [A], max_new_tokens=6))
    assert [o.finish_reason for o in tokens(run_to_end(engine)["r"])][-1] is FinishReason.LENGTH


def test_the_last_output_flushes_an_incomplete_character() -> None:
    engine = fake_engine(spell("é"))
    engine.add(request("r", [A], max_new_tokens=1))
    assert [o.text for o in tokens(run_to_end(engine)["r"])] == ["\ufffd"]


def test_a_stop_string_ends_after_the_token_that_completes_it() -> None:
    engine = fake_engine(spell("one two three"))
    engine.add(request("r", [A], stop_strings=("two",)))
    outputs = tokens(run_to_end(engine)["r"])
    assert "".join(o.text for o in outputs) == "one two"
    assert outputs[-1].finish_reason is FinishReason.STOP


def test_a_special_token_may_be_a_stop_string() -> None:
    engine = fake_engine(spell("hi"))
    engine.add(request("r", [A], stop_strings=(END_OF_TEXT,)))
    assert len(tokens(run_to_end(engine)["r"])) == 3


def test_requests_join_and_leave_between_steps() -> None:
    engine = fake_engine()
    engine.add(request("long", [A], max_new_tokens=10))
    engine.step()
    engine.add(request("short", [B], max_new_tokens=2))
    rows = []
    while engine.has_work:
        engine.step()
        rows.append(engine.last_step.num_rows)
    assert rows == [2, 2, 1, 1, 1, 1, 1, 1, 1]


def test_every_sequence_of_a_request_reports_under_its_own_index() -> None:
    engine = fake_engine(max_rows=2)
    engine.add(request("r", [A], max_new_tokens=3, num_return_sequences=5, do_sample=True))
    outputs = run_to_end(engine)["r"]
    assert [len(tokens(outputs, index)) for index in range(5)] == [3] * 5


def test_an_aborted_request_is_silent_and_its_blocks_are_free_at_once() -> None:
    engine = fake_engine()
    engine.add(request("gone", [A] * 9))
    engine.add(request("kept", [B], max_new_tokens=4))
    engine.step()
    engine.abort("gone")
    assert engine.used_kv_tokens == 4
    engine.abort("gone")
    engine.abort("never heard of")
    outputs = run_to_end(engine)
    assert set(outputs) == {"kept"}
    engine.add(request("gone", [A]))


def test_a_request_with_invalid_logits_fails_alone() -> None:
    engine = fake_engine(FakeRunner(nan_token=NAN))
    engine.add(request("bad", [A, NAN], num_return_sequences=2, do_sample=True))
    engine.add(request("good", [A], max_new_tokens=5))
    outputs = run_to_end(engine)
    [failed] = outputs["bad"]
    assert isinstance(failed, RequestFailed)
    assert "nan" in failed.message
    assert failed.blame is Blame.MODEL
    assert [o.token_id for o in tokens(outputs["good"])] == expected([A], 5)


def test_parameters_that_leave_no_token_are_to_blame_and_their_neighbours_go_on() -> None:
    engine = fake_engine()
    everything = tuple(range(257))
    engine.add(request("bad", [A], do_sample=True, suppress_tokens=everything))
    engine.add(request("good", [A], max_new_tokens=5))
    outputs = run_to_end(engine)
    [failed] = outputs["bad"]
    assert isinstance(failed, RequestFailed)
    assert failed.blame is Blame.PARAMETERS
    assert len(outputs["good"]) == 5


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("factor", [1e30, 1e300, -1e300, 5.0])
def test_a_length_penalty_that_overflows_harms_nobody_else(factor: float, do_sample: bool) -> None:
    engine = fake_engine(FakeRunner(num_blocks=200))
    engine.add(
        request(
            "decaying",
            [A],
            max_new_tokens=200,
            do_sample=do_sample,
            eos_token_ids=(END_OF_TEXT_ID, 50256),
            exponential_decay_length_penalty=(1, factor),
        )
    )
    engine.add(request("other", [A], max_new_tokens=150))
    outputs = run_to_end(engine)
    assert [o.token_id for o in tokens(outputs["other"])] == expected([A], 150)
    last = outputs["decaying"][-1]
    assert isinstance(last, TokenOutput) or last.blame is Blame.PARAMETERS


def test_invalid_logits_are_repaired_on_request() -> None:
    engine = fake_engine(FakeRunner(nan_token=NAN))
    engine.add(request("r", [NAN], max_new_tokens=3, remove_invalid_values=True))
    assert [o.token_id for o in tokens(run_to_end(engine)["r"])] == [0, 0, 0]


def test_a_request_that_crashes_the_model_fails_alone() -> None:
    engine = fake_engine(FakeRunner(crash_token=CRASH), max_step_tokens=64)
    good = {f"good-{i}": [A + i] for i in range(5)}
    for request_id, prompt in good.items():
        engine.add(request(request_id, prompt, max_new_tokens=5))
    engine.add(request("bad", [A, CRASH], num_return_sequences=2, do_sample=True))
    outputs = run_to_end(engine)
    assert outputs.pop("bad") == [
        RequestFailed("bad", "the model failed on this request: the device gave up")
    ]
    for request_id, prompt in good.items():
        assert [o.token_id for o in tokens(outputs[request_id])] == expected(prompt, 5)


class Activation:
    """What a forward pass holds while it runs."""


class HoldingRunner(FakeRunner):
    """Notes at each attempt whether what the one before it held is still there."""

    def __init__(self) -> None:
        super().__init__(crash_token=CRASH)
        self.leftovers: list[object] = []
        self._last: Callable[[], object] = lambda: None

    def forward(self, plan: StepPlan) -> torch.Tensor:
        self.leftovers.append(self._last())
        try:
            return self._forward(plan)
        except RuntimeError as error:
            raise ValueError("told in other words") from error

    def _forward(self, plan: StepPlan) -> torch.Tensor:
        activation = Activation()
        self._last = weakref.ref(activation)
        return super().forward(plan)


def test_what_a_failed_pass_held_is_gone_before_the_next_attempt() -> None:
    runner = HoldingRunner()
    engine = fake_engine(runner)
    for name, prompt in (("a", [A]), ("bad", [CRASH]), ("b", [B])):
        engine.add(request(name, prompt, max_new_tokens=1))
    assert len(engine.step()) == 3
    assert len(runner.leftovers) > 3
    assert set(runner.leftovers) == {None}


def test_requests_that_are_all_to_blame_fail_each_once() -> None:
    engine = fake_engine(FakeRunner(crash_token=A))
    for i in range(5):
        engine.add(request(f"r{i}", [A]))
    outputs = run_to_end(engine)
    assert [len(outputs[f"r{i}"]) for i in range(5)] == [1] * 5


class FailingRunner(FakeRunner):
    """Every forward pass raises, whatever is in it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, plan: StepPlan) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize("num_requests", [1, 2, 7])
def test_a_dead_device_is_blamed_on_no_request(num_requests: int) -> None:
    engine = fake_engine(FailingRunner(RuntimeError("device-side assert triggered")))
    for i in range(num_requests):
        engine.add(request(f"r{i}", [A]))
    with pytest.raises(EngineBroken, match="fails on every request"):
        engine.step()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError()])
def test_out_of_memory_ends_requests_but_not_the_engine(error: Exception) -> None:
    engine = fake_engine(FailingRunner(error))
    for i in range(3):
        engine.add(request(f"r{i}", [A]))
    outputs = run_to_end(engine)
    assert all(isinstance(outputs[f"r{i}"][0], RequestFailed) for i in range(3))


class CrampedRunner(FakeRunner):
    """Out of memory whenever more than one sequence is in a step; notes what happens in `log`."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def forward(self, plan: StepPlan) -> torch.Tensor:
        self.log.append(f"step of {len(plan.chunks)}")
        if len(plan.chunks) > 1:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return super().forward(plan)


def test_after_an_out_of_memory_the_rest_is_tried_on_an_emptied_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("emptied"))
    engine = fake_engine(CrampedRunner(log))
    for i in range(3):
        engine.add(request(f"r{i}", [A], max_new_tokens=1))
    assert [type(output) for output in engine.step()] == [TokenOutput] * 3
    halves = ["step of 1", "step of 2", "emptied", "step of 1", "step of 1"]
    assert log == ["step of 3", "emptied", *halves]


def test_other_failures_leave_the_devices_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("emptied"))
    engine = fake_engine(FakeRunner(crash_token=CRASH))
    for name, prompt in (("bad", [CRASH]), ("good", [B])):
        engine.add(request(name, prompt, max_new_tokens=1))
    assert len(engine.step()) == 2
    assert log == []


def test_the_probe_finds_room_in_a_full_cache() -> None:
    engine = fake_engine(FakeRunner(num_blocks=2, crash_token=CRASH))
    engine.add(request("bad", [CRASH] * 4, max_new_tokens=1))
    engine.add(request("good", [A] * 4, max_new_tokens=1))
    outputs = run_to_end(engine)
    assert isinstance(outputs["bad"][0], RequestFailed)
    assert [o.token_id for o in tokens(outputs["good"])] == expected([A] * 4, 1)


def test_a_resumed_request_goes_on_where_the_earlier_attempt_stopped() -> None:
    prompt = [A, B]
    whole = expected(prompt, 8)
    engine = fake_engine()
    params = SamplingParams(max_new_tokens=8)
    engine.add(
        Request(
            request_id="r", prompt_token_ids=prompt, params=params, generated=(tuple(whole[:5]),)
        )
    )
    outputs = tokens(run_to_end(engine)["r"])
    assert [o.token_id for o in outputs] == whole[5:]
    assert "".join(o.text for o in outputs) == bytes(whole[5:]).decode()


def test_a_resumed_request_draws_what_it_would_have_drawn() -> None:
    flat = FakeRunner(next_token=lambda context: len(context) % 2)
    params = SamplingParams(
        max_new_tokens=8, do_sample=True, temperature=9.0, seed=5, num_return_sequences=2
    )
    whole = fake_engine(flat)
    whole.add(Request(request_id="r", prompt_token_ids=[A], params=params))
    outputs = run_to_end(whole)["r"]
    first, second = ([o.token_id for o in tokens(outputs, index)] for index in range(2))
    assert first != second
    resumed = fake_engine(FakeRunner(next_token=lambda context: len(context) % 2))
    generated = (tuple(first[:3]), tuple(second))
    resumed.add(Request(request_id="r", prompt_token_ids=[A], params=params, generated=generated))
    outputs = run_to_end(resumed)["r"]
    assert [o.token_id for o in tokens(outputs, 0)] == first[3:]
    assert tokens(outputs, 1) == []


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "prompt_token_ids is empty"),
        ([A, 257], {}, r"prompt_token_ids holds token id 257; the vocabulary is \[0, 257\)"),
        ([-1], {}, "prompt_token_ids holds token id -1"),
        ([A], {"max_new_tokens": 0}, r"max_new_tokens must lie in \[1, 2147483647\], not 0"),
        ([A] * 60, {"max_new_tokens": 5}, "60 prompt tokens .* context of 64 tokens"),
        ([A], {"max_new_tokens": 41}, "41 tokens cannot be held: the KV cache has room for 40"),
        ([A], {"num_return_sequences": 0}, "num_return_sequences must lie in"),
        ([A], {"do_sample": True, "temperature": 0.0}, "temperature must lie in"),
        ([A], {"seed": 2**63}, "seed must lie in"),
        ([A], {"stop_strings": ("x", "")}, "stop_strings holds an empty string"),
        ([A], {"bad_words_ids": ((1, 300),)}, "bad_words_ids holds token id 300"),
        ([A], {"bad_words_ids": ((),)}, "bad_words_ids holds an empty word"),
        ([A], {"sequence_bias": (((), 1.0),)}, "sequence_bias holds an empty word"),
        ([A], {"sequence_bias": (((300,), 1.0),)}, "sequence_bias holds token id 300"),
        ([A], {"suppress_tokens": (300,)}, "suppress_tokens holds token id 300"),
        ([A], {"begin_suppress_tokens": (300,)}, "begin_suppress_tokens holds token id 300"),
        ([A], {"forced_eos_token_ids": (300,)}, "forced_eos_token_id holds token id 300"),
        ([A], {"forced_bos_token_id": 300}, "forced_bos_token_id holds token id 300"),
        ([A], {"forced_bos_token_id": 3, "suppress_tokens": (3,)}, "token of forced_bos_token_id"),
        ([A], {"forced_eos_token_ids": (3,), "suppress_tokens": (3, 4)}, "also in suppress_tokens"),
    ],
)
def test_a_request_that_can_never_run_is_refused_with_its_reason(
    prompt: list[int], params: dict[str, Any], message: str
) -> None:
    engine = fake_engine(FakeRunner(num_blocks=10), context_length=64)
    with pytest.raises(ValueError, match=message):
        engine.add(request("r", prompt, **params))
    assert not engine.has_work


def test_a_request_that_just_fits_the_cache_is_served() -> None:
    engine = fake_engine(FakeRunner(num_blocks=10))
    engine.add(request("r", [A], max_new_tokens=40))
    assert len(run_to_end(engine)["r"]) == 40


def test_a_request_id_can_be_used_once_at_a_time() -> None:
    engine = fake_engine()
    engine.add(request("r", [A], max_new_tokens=1))
    with pytest.raises(ValueError, match="request id r is in use"):
        engine.add(request("r", [B]))
    run_to_end(engine)
    engine.add(request("r", [B]))


@pytest.mark.parametrize(
    ("generated", "message"),
    [
        (((A,), (A,)), "generated holds 2 sequences, num_return_sequences is 1"),
        (((A, A, A, A),), "generated holds 4 tokens, max_new_tokens is 3"),
        (((A, 300),), "generated holds token id 300"),
        (((A, A, A),), "request r is complete"),
        (((A, END_OF_TEXT_ID),), "request r is complete"),
        (((ord("x"), ord("y")),), "request r is complete"),
    ],
)
def test_generated_tokens_that_leave_nothing_to_do_are_refused(
    generated: tuple[tuple[int, ...], ...], message: str
) -> None:
    params = SamplingParams(max_new_tokens=3, eos_token_ids=(END_OF_TEXT_ID,), stop_strings=("xy",))
    with pytest.raises(ValueError, match=message):
        fake_engine().add(
            Request(request_id="r", prompt_token_ids=[A], params=params, generated=generated)
        )


def test_an_eos_id_outside_the_vocabulary_just_never_occurs() -> None:
    engine = fake_engine()
    engine.add(request("r", [A], max_new_tokens=3, eos_token_ids=(50256,), min_length=3))
    assert len(run_to_end(engine)["r"]) == 3
