"""A failure ends the requests that cause it, over a fake model; a dead device breaks the engine."""

import weakref
from collections.abc import Callable

import pytest
import torch

from tests.fakes import END_OF_TEXT_ID, FakeRunner, engine_on_fake_runner
from tests.worker.engine.fake_requests import (
    CRASH,
    NAN,
    A,
    B,
    expected,
    request,
    run_to_end,
    tokens,
)
from worker.engine import EngineBroken, FailureCause, RequestFailed, TokenOutput
from worker.engine.scheduling.step_plan import StepPlan


def test_a_request_with_invalid_logits_fails_alone() -> None:
    engine = engine_on_fake_runner(FakeRunner(nan_token=NAN))
    engine.add(request("bad", [A, NAN], num_return_sequences=2, do_sample=True))
    engine.add(request("good", [A], max_new_tokens=5))
    outputs = run_to_end(engine)
    [failed] = outputs["bad"]
    assert isinstance(failed, RequestFailed)
    assert "nan" in failed.message
    assert failed.cause is FailureCause.MODEL
    assert [o.token_id for o in tokens(outputs["good"])] == expected([A], 5)


def test_parameters_that_ban_every_token_fail_their_request_alone() -> None:
    engine = engine_on_fake_runner()
    everything = tuple(range(257))
    engine.add(request("bad", [A], do_sample=True, suppress_tokens=everything))
    engine.add(request("good", [A], max_new_tokens=5))
    outputs = run_to_end(engine)
    [failed] = outputs["bad"]
    assert isinstance(failed, RequestFailed)
    assert failed.cause is FailureCause.PARAMETERS
    assert len(outputs["good"]) == 5


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("factor", [1e30, 1e300, -1e300, 5.0])
def test_an_overflowing_length_penalty_affects_no_other_request(
    factor: float, do_sample: bool
) -> None:
    engine = engine_on_fake_runner(FakeRunner(num_blocks=200))
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
    assert isinstance(last, TokenOutput) or last.cause is FailureCause.PARAMETERS


def test_invalid_logits_are_repaired_on_request() -> None:
    engine = engine_on_fake_runner(FakeRunner(nan_token=NAN))
    engine.add(request("r", [NAN], max_new_tokens=3, remove_invalid_values=True))
    assert [o.token_id for o in tokens(run_to_end(engine)["r"])] == [0, 0, 0]


def test_a_request_that_crashes_the_model_fails_alone() -> None:
    engine = engine_on_fake_runner(FakeRunner(crash_token=CRASH), max_step_tokens=64)
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
    """A tensor of a forward pass."""


class HoldingRunner(FakeRunner):
    """Records at each attempt whether the activation of the attempt before still exists."""

    def __init__(self) -> None:
        super().__init__(crash_token=CRASH)
        self.leftovers: list[object] = []
        self._last: Callable[[], object] = lambda: None

    def forward(self, plan: StepPlan) -> torch.Tensor:
        self.leftovers.append(self._last())
        try:
            return self._forward(plan)
        except RuntimeError as error:
            raise ValueError("wrapped") from error

    def _forward(self, plan: StepPlan) -> torch.Tensor:
        activation = Activation()
        self._last = weakref.ref(activation)
        return super().forward(plan)


def test_tensors_of_a_failed_step_are_freed_before_the_next_attempt() -> None:
    runner = HoldingRunner()
    engine = engine_on_fake_runner(runner)
    for name, prompt in (("a", [A]), ("bad", [CRASH]), ("b", [B])):
        engine.add(request(name, prompt, max_new_tokens=1))
    assert len(engine.step()) == 3
    assert len(runner.leftovers) > 3
    assert set(runner.leftovers) == {None}


def test_requests_that_all_crash_the_model_fail_once_each() -> None:
    engine = engine_on_fake_runner(FakeRunner(crash_token=A))
    for i in range(5):
        engine.add(request(f"r{i}", [A]))
    outputs = run_to_end(engine)
    assert [len(outputs[f"r{i}"]) for i in range(5)] == [1] * 5


class FailingRunner(FakeRunner):
    """Every forward pass raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, plan: StepPlan) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize("num_requests", [1, 2, 7])
def test_a_dead_device_fails_no_single_request(num_requests: int) -> None:
    engine = engine_on_fake_runner(FailingRunner(RuntimeError("device-side assert triggered")))
    for i in range(num_requests):
        engine.add(request(f"r{i}", [A]))
    with pytest.raises(EngineBroken, match="fails on every request"):
        engine.step()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError()])
def test_out_of_memory_ends_requests_but_not_the_engine(error: Exception) -> None:
    engine = engine_on_fake_runner(FailingRunner(error))
    for i in range(3):
        engine.add(request(f"r{i}", [A]))
    outputs = run_to_end(engine)
    assert all(isinstance(outputs[f"r{i}"][0], RequestFailed) for i in range(3))


class SmallDeviceRunner(FakeRunner):
    """Runs out of memory in a step of more than one sequence; records events in `log`."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def forward(self, plan: StepPlan) -> torch.Tensor:
        self.log.append(f"step of {len(plan.chunks)}")
        if len(plan.chunks) > 1:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return super().forward(plan)


def test_the_cache_of_the_device_is_emptied_after_an_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("emptied"))
    engine = engine_on_fake_runner(SmallDeviceRunner(log))
    for i in range(3):
        engine.add(request(f"r{i}", [A], max_new_tokens=1))
    assert [type(output) for output in engine.step()] == [TokenOutput] * 3
    halves = ["step of 1", "step of 2", "emptied", "step of 1", "step of 1"]
    assert log == ["step of 3", "emptied", *halves]


def test_other_failures_leave_the_devices_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("emptied"))
    engine = engine_on_fake_runner(FakeRunner(crash_token=CRASH))
    for name, prompt in (("bad", [CRASH]), ("good", [B])):
        engine.add(request(name, prompt, max_new_tokens=1))
    assert len(engine.step()) == 2
    assert log == []


def test_the_probe_gets_a_block_of_a_full_cache() -> None:
    engine = engine_on_fake_runner(FakeRunner(num_blocks=2, crash_token=CRASH))
    engine.add(request("bad", [CRASH] * 4, max_new_tokens=1))
    engine.add(request("good", [A] * 4, max_new_tokens=1))
    outputs = run_to_end(engine)
    assert isinstance(outputs["bad"][0], RequestFailed)
    assert [o.token_id for o in tokens(outputs["good"])] == expected([A] * 4, 1)
