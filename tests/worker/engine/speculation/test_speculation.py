"""Speculative decoding makes an engine's steps fewer and does not change its output."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from tests.fakes import FakeRunner, engine_on_fake_runner, stutter
from tests.worker.engine.oracle import Oracle
from worker.engine import (
    Engine,
    EngineConfig,
    Executor,
    FailureCause,
    Output,
    Request,
    RequestFailed,
    SamplingParams,
    TokenOutput,
)
from worker.engine.scheduling.step_plan import StepPlan

REPEATING = [*range(40, 60)] * 2  # a prompt that repeats itself
MOST_WORDS = tuple(range(4, 512))  # suppressed: the remaining four repeat
MODES = {
    "greedy": SamplingParams(),
    "penalties": SamplingParams(repetition_penalty=1.3, no_repeat_ngram_size=5),
    "sampled": SamplingParams(do_sample=True, top_k=3, seed=5, num_return_sequences=3),
    "sampled from all": SamplingParams(do_sample=True, top_p=0.9, seed=6, temperature=0.7),
    "ends": SamplingParams(eos_token_ids=(3, 5), min_new_tokens=9, forced_eos_token_ids=(2,)),
}


class Run:
    """The outputs of an engine, and the number of its steps."""

    def __init__(self, engine: Engine, requests: list[Request]) -> None:
        self.outputs: defaultdict[tuple[str, int], list[TokenOutput]] = defaultdict(list)
        self.failures: list[RequestFailed] = []
        self.num_steps = 0
        self.num_drafts = 0
        self.num_accepted_drafts = 0
        for request in requests:
            engine.add(request)
        while engine.has_work:
            for output in engine.step():
                self._take(output)
            self.num_steps += 1
            self.num_drafts += engine.last_step.num_drafts
            self.num_accepted_drafts += engine.last_step.num_accepted_drafts
        assert engine.used_kv_tokens == 0

    def _take(self, output: Output) -> None:
        if isinstance(output, RequestFailed):
            self.failures.append(output)
        else:
            self.outputs[output.request_id, output.sequence].append(output)

    @property
    def text(self) -> dict[tuple[str, int], list[tuple[object, ...]]]:
        return {
            name: [(o.token_id, o.text, o.finish_reason) for o in outputs]
            for name, outputs in self.outputs.items()
        }

    @property
    def logprobs(self) -> list[float]:
        """Of all tokens and their alternatives."""
        return [
            value
            for _, outputs in sorted(self.outputs.items())
            for output in outputs
            for value in (output.logprob or 0.0, *(output.top_logprobs or {}).values())
        ]


def load(
    oracle: Oracle, *, num_drafts: int | None, num_blocks: int = 64, executor: Executor
) -> Engine:
    config = EngineConfig(
        max_rows=8,
        num_blocks=num_blocks,
        max_drafting_tokens=64,
        prompt_lookup_num_tokens=num_drafts,
    )
    return Engine.from_pretrained(
        str(oracle.path), dtype="float32", executor=executor, config=config
    )


def requests() -> list[Request]:
    return [
        Request(
            request_id=name,
            prompt_token_ids=REPEATING[number:],
            params=replace(
                params,
                max_new_tokens=60,
                suppress_tokens=MOST_WORDS,
                logprobs=True,
                top_logprobs=2,
            ),
        )
        for number, (name, params) in enumerate(MODES.items())
    ]


@pytest.mark.parametrize("executor", [Executor.TORCH, Executor.OPENVINO])
def test_outputs_are_the_same_with_and_without_drafts(oracle: Oracle, executor: Executor) -> None:
    if executor is Executor.OPENVINO:
        pytest.importorskip("openvino")
        if oracle.model.config.alibi:
            pytest.skip("alibi stays on torch")
    plain = Run(load(oracle, num_drafts=None, executor=executor), requests())
    for num_blocks in (64, 6):  # the second engine preempts
        engine = load(oracle, num_drafts=6, num_blocks=num_blocks, executor=executor)
        drafting = Run(engine, requests())
        assert drafting.text == plain.text
        assert drafting.logprobs == pytest.approx(plain.logprobs, abs=1e-4)
        assert drafting.num_accepted_drafts > 50
        assert (engine.num_preemptions > 0) == (num_blocks == 6)
    assert plain.num_drafts == 0
    assert not plain.failures


def test_a_repeating_text_is_that_of_transformers_with_prompt_lookup(
    oracle: Oracle,
) -> None:
    prompt = torch.tensor([REPEATING])
    theirs = oracle.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=40,
        prompt_lookup_num_tokens=5,
        pad_token_id=0,
    )
    params = SamplingParams(max_new_tokens=40, prompt_lookup_num_tokens=5)
    request = Request(request_id="r", prompt_token_ids=REPEATING, params=params)
    ours = Run(load(oracle, num_drafts=None, executor=Executor.TORCH), [request])
    [outputs] = ours.outputs.values()
    assert [output.token_id for output in outputs] == theirs[0, len(REPEATING) :].tolist()
    assert ours.num_drafts > 0


def run_with_drafts(runner: FakeRunner, prompt: list[int], *, max_new_tokens: int) -> Run:
    request = Request(
        request_id="r",
        prompt_token_ids=prompt,
        params=SamplingParams(prompt_lookup_num_tokens=8, max_new_tokens=max_new_tokens),
    )
    return Run(engine_on_fake_runner(runner, block_size=16), [request])


def test_a_text_that_repeats_itself_takes_fewer_steps() -> None:
    run = run_with_drafts(FakeRunner(block_size=16, next_token=stutter), [97], max_new_tokens=100)
    assert len(run.outputs["r", 0]) == 100
    assert run.num_steps < 40
    assert run.num_steps + run.num_accepted_drafts >= 100


def test_a_text_without_repetition_computes_few_useless_drafts() -> None:
    def seldom(context: list[int]) -> int:
        """Return the same token at every other position, always with a new successor."""
        return 20 if len(context) % 2 else 21 + len(context)

    run = run_with_drafts(FakeRunner(block_size=16, next_token=seldom), [1], max_new_tokens=200)
    assert (run.num_steps, run.num_accepted_drafts) == (200, 0)
    assert 20 < run.num_drafts < 100


class FragileRunner(FakeRunner):
    """A device that fails on every step with drafts."""

    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = super().forward(plan)
        if plan.has_drafts:
            raise RuntimeError("out of memory")
        return logits


def test_a_step_that_fails_because_of_drafts_is_repeated_without_them() -> None:
    runner = FragileRunner(block_size=16, next_token=stutter)
    run = run_with_drafts(runner, [97], max_new_tokens=50)
    assert not run.failures
    assert len(run.outputs["r", 0]) == run.num_steps == 50
    assert any(plan.has_drafts for plan in runner.plans)


def test_a_request_that_fails_after_an_accepted_draft_returns_its_tokens_first() -> None:
    prompt, script = [5, 6, 7, 5, 6, 7, 5], [6, 7, 5, 6, 7]

    class Brittle(FakeRunner):
        def _logits(self, context: list[int]) -> torch.Tensor:
            is_late = len(context) == len(prompt) + 3
            return super()._logits(context) * (torch.nan if is_late else 1)

    runner = Brittle(block_size=16, next_token=lambda c: script[len(c) - len(prompt)])
    run = run_with_drafts(runner, prompt, max_new_tokens=5)
    assert [output.token_id for output in run.outputs["r", 0]] == [6, 7, 5]
    assert [failure.cause for failure in run.failures] == [FailureCause.MODEL]
    assert run.num_steps == 1
