"""The heart: the engine's tokens against transformers' `generate`, one unpadded prompt at a time.

Alone, and in mixed company: everybody at once with differing parameters, joining and leaving,
prompts in chunks, a pool too small for all.
"""

from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch

from tests.worker.engine.conftest import Judge
from tests.worker.engine.oracle import END_OF_TEXT_ID, generate, to_generate_kwargs
from tests.worker.engine.random_params import (
    random_greedy_params,
    random_prompt,
    random_sampling_params,
)
from worker.engine import Engine, EngineConfig, Request, RequestFailed, SamplingParams, TokenOutput
from worker.engine.loading import load_runner
from worker.engine.plan import StepPlan
from worker.engine.runner import ModelRunner
from worker.engine.sampler import INVALID_LOGITS
from worker.model.checkpoint import load_tokenizer

NUM_PROMPTS = 100
NUM_MIXES = 60
GREEDY = SamplingParams(max_new_tokens=12, eos_token_ids=(END_OF_TEXT_ID,))

Wish = tuple[list[int], SamplingParams]

ALONE = EngineConfig(max_rows=1, num_blocks=64)
CROWDED = EngineConfig(max_rows=8, num_blocks=14, block_size=4, max_step_tokens=12)


def run(engine: Engine, wishes: Sequence[Wish], *, per_step: int) -> list[list[TokenOutput]]:
    """Outputs of each wish; `per_step` requests join before each step."""
    outputs: defaultdict[str, list[TokenOutput]] = defaultdict(list)
    pending = list(enumerate(wishes))
    while pending or engine.has_work:
        joining, pending = pending[:per_step], pending[per_step:]
        for number, (prompt, params) in joining:
            engine.add(Request(request_id=str(number), prompt_token_ids=prompt, params=params))
        for output in engine.step():
            assert not isinstance(output, RequestFailed), output
            outputs[output.request_id].append(output)
    assert engine.used_kv_tokens == 0
    return [outputs[str(number)] for number in range(len(wishes))]


def run_alone(engine: Engine, wishes: Sequence[Wish]) -> list[list[TokenOutput]]:
    return [run(engine, [wish], per_step=1)[0] for wish in wishes]


def ids(results: list[list[TokenOutput]]) -> list[list[int]]:
    return [[output.token_id for output in outputs] for outputs in results]


def load(judge: Judge, config: EngineConfig) -> Engine:
    return Engine.from_pretrained(str(judge.path), dtype="float32", config=config)


def test_greedy_equals_generate_alone_and_in_a_crowd(judge: Judge) -> None:
    random = Random(0)
    wishes = [(random_prompt(random, judge.vocab_size), GREEDY) for _ in range(NUM_PROMPTS)]
    expected = [generate(judge.model, *wish) for wish in wishes]
    assert len({tuple(tokens) for tokens in expected}) > NUM_PROMPTS / 2, "a degenerate model"
    assert ids(run_alone(load(judge, ALONE), wishes)) == expected
    crowded = load(judge, CROWDED)
    assert ids(run(crowded, wishes, per_step=3)) == expected
    assert crowded._scheduler.num_preemptions > 0
    assert ids(run(load(judge, EngineConfig(max_rows=32)), wishes, per_step=100)) == expected


@pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")
def test_random_greedy_parameters_equal_generate_alone_and_in_a_crowd(judge: Judge) -> None:
    random = Random(1)
    wishes = [
        (random_prompt(random, judge.vocab_size), random_greedy_params(random, judge.vocab_size))
        for _ in range(NUM_MIXES)
    ]
    expected = [generate(judge.model, *wish) for wish in wishes]
    assert ids(run_alone(load(judge, ALONE), wishes)) == expected
    assert ids(run(load(judge, CROWDED), wishes, per_step=5)) == expected


def test_the_same_seed_draws_the_same_tokens_alone_and_in_a_crowd(judge: Judge) -> None:
    random = Random(2)
    wishes = [
        (random_prompt(random, judge.vocab_size), random_sampling_params(random, judge.vocab_size))
        for _ in range(NUM_MIXES)
    ]
    alone = ids(run_alone(load(judge, ALONE), wishes))
    assert ids(run(load(judge, CROWDED), wishes, per_step=4)) == alone


def test_sampled_tokens_come_from_the_distribution_transformers_would_draw_from(
    judge: Judge,
) -> None:
    """Teacher forcing: at each prefix of ours, generate's scores give the same log-probability."""
    random = Random(3)
    wishes = [
        (
            random_prompt(random, judge.vocab_size),
            SamplingParams(
                do_sample=True,
                seed=seed,
                top_k=20,
                temperature=1.4,
                max_new_tokens=5,
                logprobs=True,
            ),
        )
        for seed in range(8)
    ]
    results = run(load(judge, CROWDED), wishes, per_step=8)
    for (prompt, params), outputs in zip(wishes, results, strict=True):
        for position, output in enumerate(outputs):
            prefix = prompt + [earlier.token_id for earlier in outputs[:position]]
            scores = next_scores(judge.model, prefix, params)
            assert output.logprob == pytest.approx(
                scores.log_softmax(dim=-1)[output.token_id].item(), abs=1e-4
            )


def next_scores(model: Any, prefix: list[int], params: SamplingParams) -> torch.Tensor:
    """The processed scores from which `generate` would draw the next token."""
    output = model.generate(
        torch.tensor([prefix]),
        attention_mask=torch.ones(1, len(prefix), dtype=torch.int64),
        return_dict_in_generate=True,
        output_scores=True,
        **(to_generate_kwargs(params) | {"max_new_tokens": 1}),
    )
    scores: torch.Tensor = output.scores[0][0]
    return scores


def test_log_probabilities_equal_normalized_transition_scores(judge: Judge) -> None:
    params = SamplingParams(max_new_tokens=8, repetition_penalty=1.3, logprobs=True)
    prompt = [20, 30, 40]
    [outputs] = run(load(judge, ALONE), [(prompt, params)], per_step=1)
    theirs = judge.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 3, dtype=torch.int64),
        return_dict_in_generate=True,
        output_scores=True,
        **to_generate_kwargs(params),
    )
    expected = judge.model.compute_transition_scores(
        theirs.sequences, theirs.scores, normalize_logits=True
    )
    assert [o.logprob for o in outputs] == pytest.approx(expected[0].tolist(), abs=1e-4)


def test_stop_strings_end_where_generate_ends(judge: Judge) -> None:
    random = Random(4)
    wishes = []
    for _ in range(25):
        prompt = random_prompt(random, judge.vocab_size)
        whole = judge.tokenizer.decode(prompt + generate(judge.model, prompt, GREEDY))
        start = random.randrange(max(1, len(whole) - 4))
        stop = whole[start : start + random.randint(1, 4)].replace("\ufffd", "") or "e"
        wishes.append((prompt, SamplingParams(max_new_tokens=12, stop_strings=(stop, "zq"))))
    expected = [generate(judge.model, *wish, judge.tokenizer) for wish in wishes]
    assert sum(len(tokens) < 12 for tokens in expected) > 5, "nothing was stopped"
    assert ids(run(load(judge, CROWDED), wishes, per_step=5)) == expected


def test_the_pieces_of_text_join_to_the_decoded_continuation(judge: Judge) -> None:
    random = Random(5)
    prompt = judge.tokenizer.encode("Hello, falcon")
    wishes = [
        (prompt, SamplingParams(do_sample=True, seed=s, max_new_tokens=20)) for s in range(10)
    ]
    for outputs in run(load(judge, CROWDED), wishes, per_step=random.randint(1, 10)):
        whole = prompt + [output.token_id for output in outputs]
        text = judge.tokenizer.decode(whole, skip_special_tokens=True)
        assert "Hello, falcon" + "".join(output.text for output in outputs) == text


class PoisonedRunner:
    """A model that goes mad over one request: its logits and all it caches become nan."""

    def __init__(self, judge: Judge, config: EngineConfig) -> None:
        loaded = load_runner(str(judge.path), config=config)
        assert isinstance(loaded.runner, ModelRunner)
        self._runner, self.model_config = loaded.runner, loaded.model_config
        self._cache = self._runner.kv_cache
        self.num_blocks = self._runner.num_blocks
        self.num_poisoned = 0

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = self._runner.forward(plan)
        size = self._cache.block_size
        for row, sequence in enumerate(plan.sampled):
            if sequence.request_id == "mad":
                self.num_poisoned += 1
                logits[row] = torch.nan
                for block in sequence.block_table:
                    self._cache.keys[:, block * size : (block + 1) * size] = torch.nan
                    self._cache.values[:, block * size : (block + 1) * size] = torch.nan
        return logits


def test_a_request_that_goes_mad_fails_alone_and_leaves_no_trace_in_the_cache(
    judge: Judge,
) -> None:
    config = EngineConfig(max_rows=8, num_blocks=24, block_size=4)
    runner = PoisonedRunner(judge, config)
    engine = Engine(
        runner=runner,
        tokenizer=load_tokenizer(judge.path),
        model_config=runner.model_config,
        config=config,
    )
    random = Random(6)
    wishes = [(random_prompt(random, judge.vocab_size, 12), GREEDY) for _ in range(12)]
    expected = [generate(judge.model, *wish) for wish in wishes]
    for _ in range(2):  # beside it, then in the blocks it had
        engine.add(Request(request_id="mad", prompt_token_ids=[20] * 30, params=GREEDY))
        assert engine.step() == [RequestFailed("mad", INVALID_LOGITS)]
        assert ids(run(engine, wishes, per_step=4)) == expected
    assert runner.num_poisoned == 2
