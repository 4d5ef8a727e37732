"""The engine on a real network beside transformers: where its text ends, what text it tells,
and that one request's madness is nobody else's.

Tokens and scores are tests/worker/engine/test_exactness.py's.
"""

from random import Random

import torch

from tests.worker.engine.company import Guest, play
from tests.worker.engine.oracle import END_OF_TEXT_ID, Judge, generate
from worker.engine import Engine, EngineConfig, Request, RequestFailed, SamplingParams
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import load_runner
from worker.engine.sampling.sampler import INVALID_LOGITS
from worker.engine.scheduling.step_plan import StepPlan
from worker.model.tokenizer.tokenizer_files import load_tokenizer

GREEDY = SamplingParams(max_new_tokens=12, eos_token_ids=(END_OF_TEXT_ID,))
CROWDED = EngineConfig(max_rows=8, num_blocks=14, block_size=4, max_step_tokens=12)


def random_prompts(random: Random, count: int) -> list[list[int]]:
    return [random.choices(range(512), k=random.randint(1, 20)) for _ in range(count)]


def load(judge: Judge) -> Engine:
    return Engine.from_pretrained(str(judge.path), dtype="float32", config=CROWDED)


def test_stop_strings_end_where_generate_ends(judge: Judge) -> None:
    random = Random(4)
    prompts = random_prompts(random, 25)
    wishes = [
        SamplingParams(max_new_tokens=12, stop_strings=(cut(judge, random, p), "zq"))
        for p in prompts
    ]
    expected = [
        generate(judge.model, prompt, params, judge.tokenizer)
        for prompt, params in zip(prompts, wishes, strict=True)
    ]
    assert sum(len(tokens) < 12 for tokens in expected) > 5, "nothing was stopped"
    guests = [Guest(tuple(prompt), params) for prompt, params in zip(prompts, wishes, strict=True)]
    assert [result.token_ids(0) for result in play(load(judge), guests)] == expected


def cut(judge: Judge, random: Random, prompt: list[int]) -> str:
    """A piece of what the model is going to say, or of the prompt."""
    whole = judge.tokenizer.decode(prompt + generate(judge.model, prompt, GREEDY))
    start = random.randrange(max(1, len(whole) - 4))
    piece: str = whole[start : start + random.randint(1, 4)].replace("\ufffd", "")
    return piece or "e"


def test_the_pieces_of_text_join_to_the_decoded_continuation(judge: Judge) -> None:
    prompt = judge.tokenizer.encode("Hello, falcon")
    params = [SamplingParams(do_sample=True, seed=s, max_new_tokens=20) for s in range(10)]
    for result in play(load(judge), [Guest(tuple(prompt), p) for p in params]):
        text = judge.tokenizer.decode(prompt + result.token_ids(0), skip_special_tokens=True)
        assert "Hello, falcon" + "".join(o.text for o in result.outputs[0]) == text


class PoisonedRunner:
    """A model that goes mad over one request: its logits and all it caches become nan."""

    def __init__(self, judge: Judge, config: EngineConfig) -> None:
        loaded = load_runner(LoadOptions(str(judge.path), config=config))
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
    prompts = random_prompts(Random(6), 12)
    guests = [Guest(tuple(p), GREEDY, arrives=n // 4) for n, p in enumerate(prompts)]
    expected = [generate(judge.model, prompt, GREEDY) for prompt in prompts]
    for _ in range(2):  # beside it, then in the blocks it had
        engine.add(Request(request_id="mad", prompt_token_ids=[20] * 30, params=GREEDY))
        assert engine.step() == [RequestFailed("mad", INVALID_LOGITS)]
        assert [result.token_ids(0) for result in play(engine, guests)] == expected
    assert runner.num_poisoned == 2
