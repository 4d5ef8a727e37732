"""The engine on a real network compared with transformers: ends, text, isolation of failures.

test_exactness.py compares tokens and scores.
"""

from random import Random

import torch

from tests.worker.engine.oracle import END_OF_TEXT_ID, Oracle, generate
from tests.worker.engine.workload import ScheduledRequest, run_all
from worker.engine import Engine, EngineConfig, Request, RequestFailed, SamplingParams
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import load_runner
from worker.engine.sampling.sampler import INVALID_LOGITS
from worker.engine.scheduling.step_plan import StepPlan
from worker.model.tokenizer.tokenizer_files import load_tokenizer

GREEDY = SamplingParams(max_new_tokens=12, eos_token_ids=(END_OF_TEXT_ID,))
SMALL_CACHE = EngineConfig(max_rows=8, num_blocks=14, block_size=4, max_step_tokens=12)


def random_prompts(random: Random, count: int) -> list[list[int]]:
    return [random.choices(range(512), k=random.randint(1, 20)) for _ in range(count)]


def load(oracle: Oracle) -> Engine:
    return Engine.from_pretrained(str(oracle.path), dtype="float32", config=SMALL_CACHE)


def test_stop_strings_end_where_generate_ends(oracle: Oracle) -> None:
    random = Random(4)
    prompts = random_prompts(random, 25)
    all_params = [
        SamplingParams(max_new_tokens=12, stop_strings=(cut(oracle, random, p), "zq"))
        for p in prompts
    ]
    expected = [
        generate(oracle.model, prompt, params, oracle.tokenizer)
        for prompt, params in zip(prompts, all_params, strict=True)
    ]
    assert sum(len(tokens) < 12 for tokens in expected) > 5, "nothing was stopped"
    scheduled_requests = [
        ScheduledRequest(tuple(prompt), params)
        for prompt, params in zip(prompts, all_params, strict=True)
    ]
    assert [result.token_ids(0) for result in run_all(load(oracle), scheduled_requests)] == expected


def cut(oracle: Oracle, random: Random, prompt: list[int]) -> str:
    """Return a piece of the continuation, or of the prompt."""
    whole = oracle.tokenizer.decode(prompt + generate(oracle.model, prompt, GREEDY))
    start = random.randrange(max(1, len(whole) - 4))
    piece: str = whole[start : start + random.randint(1, 4)].replace("\ufffd", "")
    return piece or "e"


def test_the_pieces_of_text_join_to_the_decoded_continuation(oracle: Oracle) -> None:
    prompt = oracle.tokenizer.encode("Hello, falcon")
    params = [SamplingParams(do_sample=True, seed=s, max_new_tokens=20) for s in range(10)]
    for result in run_all(load(oracle), [ScheduledRequest(tuple(prompt), p) for p in params]):
        text = oracle.tokenizer.decode(prompt + result.token_ids(0), skip_special_tokens=True)
        assert "Hello, falcon" + "".join(o.text for o in result.outputs[0]) == text


class PoisonedRunner:
    """A model that computes nan for one request: its logits, keys and values."""

    def __init__(self, oracle: Oracle, config: EngineConfig) -> None:
        loaded = load_runner(LoadOptions(str(oracle.path), config=config))
        assert isinstance(loaded.runner, ModelRunner)
        self._runner, self.model_config = loaded.runner, loaded.model_config
        [self._cache] = self._runner.kv_caches
        self.num_blocks = self._runner.num_blocks
        self.num_poisoned = 0

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = self._runner.forward(plan)
        size = self._cache.block_size
        for row, sequence in enumerate(plan.sampled):
            if sequence.request_id == "poisoned":
                self.num_poisoned += 1
                logits[row] = torch.nan
                for block in sequence.block_table:
                    self._cache.keys[:, block * size : (block + 1) * size] = torch.nan
                    self._cache.values[:, block * size : (block + 1) * size] = torch.nan
        return logits


def test_a_request_with_invalid_logits_fails_alone_and_leaves_no_cached_blocks(
    oracle: Oracle,
) -> None:
    config = EngineConfig(max_rows=8, num_blocks=24, block_size=4)
    runner = PoisonedRunner(oracle, config)
    engine = Engine(
        runner=runner,
        tokenizer=load_tokenizer(oracle.path),
        model_config=runner.model_config,
        config=config,
    )
    prompts = random_prompts(Random(6), 12)
    scheduled_requests = [
        ScheduledRequest(tuple(p), GREEDY, arrives=n // 4) for n, p in enumerate(prompts)
    ]
    expected = [generate(oracle.model, prompt, GREEDY) for prompt in prompts]
    for _ in range(2):  # in the same batch, then in the blocks of the failed request
        engine.add(Request(request_id="poisoned", prompt_token_ids=[20] * 30, params=GREEDY))
        assert engine.step() == [RequestFailed("poisoned", INVALID_LOGITS)]
        assert [result.token_ids(0) for result in run_all(engine, scheduled_requests)] == expected
    assert runner.num_poisoned == 2
