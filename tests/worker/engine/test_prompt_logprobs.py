"""Log-probabilities of prompts, and raw values of tokens, against transformers' logits."""

from dataclasses import replace
from random import Random

import pytest
import torch

from tests.fakes import FakeRunner, engine_on_fake_runner
from tests.worker.engine.oracle import Oracle
from worker.engine import Engine, EngineConfig, Request, SamplingParams, TokenOutput

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


def make_engine(oracle: Oracle, **config: int) -> Engine:
    settings = EngineConfig(block_size=4, max_rows=4, **config)
    return Engine.from_pretrained(str(oracle.path), executor="torch", config=settings)


def run(engine: Engine, *requests: Request) -> dict[str, list[TokenOutput]]:
    """Return the tokens of each request."""
    outputs: dict[str, list[TokenOutput]] = {}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            assert isinstance(output, TokenOutput), output
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


@torch.no_grad()
def expected_logprobs(oracle: Oracle, token_ids: list[int]) -> torch.Tensor:
    """Return the log-probabilities after each prefix, [len(token_ids), vocab]."""
    logprobs: torch.Tensor = oracle.model(torch.tensor([token_ids])).logits[0].log_softmax(dim=-1)
    return logprobs


def check_prompt(oracle: Oracle, prompt: list[int], first: TokenOutput, top: int) -> None:
    expected = expected_logprobs(oracle, prompt)[:-1]
    assert first.prompt is not None and first.prompt.token_ids == prompt
    index = torch.tensor(prompt[1:], dtype=torch.int64)[:, None]
    theirs = expected.gather(-1, index)[:, 0]
    torch.testing.assert_close(torch.tensor(first.prompt.logprobs), theirs, **TOLERANCE)
    for row, best in zip(expected, first.prompt.top_logprobs, strict=True):
        ours = torch.tensor([*best.values()])
        torch.testing.assert_close(ours, row.topk(top).values, **TOLERANCE)
        torch.testing.assert_close(ours, row[list(best)], **TOLERANCE)


@pytest.mark.parametrize("oracle", ["7b"], indirect=True)
@pytest.mark.parametrize("max_step_tokens", [5, 64])
def test_prompts_have_the_log_probabilities_of_transformers(
    oracle: Oracle, max_step_tokens: int
) -> None:
    """In one step and in chunks, in company, and after another request has cached the prompt."""
    random = Random(1)
    engine = make_engine(oracle, max_step_tokens=max_step_tokens)
    prompts = [random.choices(range(oracle.vocab_size), k=k) for k in (1, 2, 9, 30)]
    plain = SamplingParams(max_new_tokens=3)
    alone = run(
        engine,
        *(
            Request(request_id=f"p{i}", prompt_token_ids=p, params=plain)
            for i, p in enumerate(prompts)
        ),
    )
    scored = [
        Request(
            request_id=str(i),
            prompt_token_ids=prompt,
            params=replace(plain, prompt_logprobs=2, num_return_sequences=2, do_sample=True),
        )
        for i, prompt in enumerate(prompts)
    ]
    greedy = [
        Request(request_id=f"g{i}", prompt_token_ids=p, params=replace(plain, prompt_logprobs=2))
        for i, p in enumerate(prompts)
    ]
    outputs = run(engine, *scored, *greedy)
    for i, prompt in enumerate(prompts):
        for name in (str(i), f"g{i}"):
            first = next(o for o in outputs[name] if o.sequence == 0)
            check_prompt(oracle, prompt, first, top=2)
            assert [o.prompt for o in outputs[name]].count(None) == len(outputs[name]) - 1
        assert [o.token_id for o in outputs[f"g{i}"]] == [o.token_id for o in alone[f"p{i}"]]


@pytest.mark.parametrize("oracle", ["7b"], indirect=True)
def test_raw_log_probabilities_follow_from_the_models_logits(oracle: Oracle) -> None:
    """Processors change which tokens are sampled, not these values."""
    prompt = [5, 6, 7, 5, 6]
    params = SamplingParams(
        max_new_tokens=12,
        do_sample=True,
        temperature=1.7,
        top_k=4,
        seed=3,
        repetition_penalty=1.4,
        frequency_penalty=0.5,
        logprobs=True,
        top_logprobs=6,
        raw_logprobs=True,
    )
    tokens = run(
        make_engine(oracle), Request(request_id="r", prompt_token_ids=prompt, params=params)
    )["r"]
    ids = [output.token_id for output in tokens]
    expected = expected_logprobs(oracle, prompt + ids)[len(prompt) - 1 : -1]
    theirs = expected.gather(-1, torch.tensor(ids)[:, None])[:, 0]
    ours = [output.logprob or 0.0 for output in tokens]
    torch.testing.assert_close(torch.tensor(ours), theirs, **TOLERANCE)
    for row, output in zip(expected, tokens, strict=True):
        best = torch.tensor([*(output.top_logprobs or {}).values()])
        torch.testing.assert_close(best, row.topk(6).values, **TOLERANCE)


def test_a_request_reports_the_tokens_that_the_prefix_cache_saved() -> None:
    engine = engine_on_fake_runner(FakeRunner())
    prompt = list(range(97, 110))
    for name, expected in (("first", 0), ("second", 12)):
        request = Request(request_id=name, prompt_token_ids=prompt, params=SamplingParams())
        first = run(engine, request)[name][0]
        assert first.prompt is not None and first.prompt.num_cached_tokens == expected


def test_a_prediction_is_drafted_from_and_changes_no_token() -> None:
    prompt = [97, 98]
    plain = Request(
        request_id="r", prompt_token_ids=prompt, params=SamplingParams(max_new_tokens=24)
    )
    runner = FakeRunner()
    expected = [o.token_id for o in run(engine_on_fake_runner(runner), plain)["r"]]
    num_steps = len(runner.plans)
    for prediction, saves_steps in ((expected, True), ([120] * 9, False)):
        runner = FakeRunner()
        request = replace(plain, prediction=tuple(prediction))
        outputs = run(engine_on_fake_runner(runner), request)["r"]
        assert [o.token_id for o in outputs] == expected
        accepted, rejected = outputs[-1].predicted or (0, 0)
        assert (accepted > rejected) == saves_steps
        assert [o.predicted for o in outputs[:-1]] == [None] * (len(outputs) - 1)
        assert (len(runner.plans) < num_steps / 2) == saves_steps
