"""Measurements of an engine's internals on the bundled model."""

from functools import partial

import pytest

from bench.engine.dense_floor import dense_layers
from bench.engine.engine_bench import EngineBench, to_request
from bench.engine.internals import median_decode_step_s
from bench.engine.latency import Disturbance, measure_latency, summarize
from bench.engine.step_breakdown import REST, measure_steps
from bench.workloads import DIFFERENT, GREEDY, SAMPLING, equal_lengths
from shared.request.prompt import PromptEncoder
from worker.engine import Engine, Request
from worker.engine.step_report import Phase

EXECUTORS = ("torch", "openvino")


def load(executor: str) -> tuple[Engine, PromptEncoder]:
    if executor == "openvino":
        pytest.importorskip("openvino")
    return EngineBench("tiny", device="cpu", executor=executor, threads=1).load()


def requests_of(engine: Engine, encoder: PromptEncoder, num_new: int) -> list[Request]:
    rows = (GREEDY, SAMPLING, *DIFFERENT[:6])
    vocab_size = engine.model_config.vocab_size
    items = equal_lengths(rows, vocab_size=vocab_size, num_new=num_new)
    return [to_request(encoder, str(number), item) for number, item in enumerate(items)]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_times_of_all_phases_add_up_to_the_steps(executor: str) -> None:
    engine, encoder = load(executor)
    requests = requests_of(engine, encoder, num_new=12)
    figures = measure_steps(engine, dense_layers(engine, threads=1), requests)
    assert figures["steps"] >= 12
    assert set(figures["phases_s"]) == {*Phase, REST}
    assert all(seconds > 0 for seconds in figures["phases_s"].values()), figures
    assert sum(figures["phases_s"].values()) == pytest.approx(figures["engine_s"])
    assert figures["dense_alone_over_engine"] == figures["dense_alone_s"] / figures["engine_s"] > 0
    assert not engine.has_work


def test_a_batch_with_all_parameters_has_steps_with_all_rows() -> None:
    engine, encoder = load("torch")
    translate = partial(to_request, encoder)
    items = equal_lengths(DIFFERENT, vocab_size=200, num_new=6)
    requests = [translate(str(number), item) for number, item in enumerate(items)]
    assert median_decode_step_s(engine, requests) > 0
    assert not engine.has_work


def test_a_long_prompt_is_measured_on_every_stream() -> None:
    engine, _ = load("torch")
    figures = measure_latency(engine, vocab_size=engine.model_config.vocab_size, rounds=2)
    assert figures["median_gap_s"] > 0
    assert figures["max_over_median"] >= figures["usual_over_median"] > 0
    assert figures["step_max_over_median"] > 0
    assert figures["quiet_max_over_median"] >= 1
    assert figures["long_prompt_ttft_s"] > 0
    assert not engine.has_work


def test_a_delay_in_the_same_step_of_all_rounds_counts_as_the_engines() -> None:
    quiet = [[1.0] * 4] * 2
    engine_s = Disturbance(quiet, disturbed=[[1.0, 3.0, 1.0]] * 2, ttft_s=3)
    machine_s = Disturbance(quiet, disturbed=[[1.0, 3.0, 9.0], [1.0, 3.0, 1.0]], ttft_s=3)
    figures = summarize([engine_s, machine_s, engine_s])
    assert figures["step_max_over_median"] == 3
    assert figures["max_over_median"] == 3
    assert figures["usual_over_median"] == 1


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_dense_layers_accept_any_number_of_rows(executor: str) -> None:
    engine, _ = load(executor)
    compute = dense_layers(engine, threads=1)
    for num_tokens, num_logit_rows in ((1, 1), (40, 3), (7, 0)):
        compute(num_tokens, num_logit_rows)
