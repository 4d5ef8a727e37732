"""Adapters in an engine give peft's output, merged or served, alone or side by side."""

from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from tests.worker.engine.conftest import STYLES
from tests.worker.engine.oracle import Oracle, generate
from tests.worker.engine.oracle_check import OracleCheck
from tests.worker.engine.param_strategies import BEAMS, GREEDY, SAMPLING, prompts
from tests.worker.engine.sampling.rows import make_sequence
from tests.worker.engine.workload import ScheduledRequest, run_all
from tests.worker.engine.workload_strategies import examples, scheduled_requests
from tests.worker.peft_adapters import acting_as, load_peft, write_adapter
from worker.engine import (
    AdapterMode,
    Engine,
    EngineConfig,
    Executor,
    Quantization,
    Request,
    SamplingParams,
)
from worker.engine import generate as generate_offline
from worker.engine.execution.openvino_runner import OpenVinoRunner
from worker.engine.execution.torch_runner import ModelRunner
from worker.engine.loading.options import LoadOptions
from worker.engine.loading.single_device import LoadedRunner, load_runner
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.model.errors import CheckpointError
from worker.model.tokenizer.tokenizer_files import load_tokenizer

CONFIG = EngineConfig(max_rows=8, num_blocks=60, block_size=4, max_step_tokens=24)
GREEDILY = SamplingParams(max_new_tokens=12)
NAMES = (None, "tales", "verse")
STRENGTHS = {"verse": 0.75, "tales": -0.5}
CLOSE = 1e-4

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")


@dataclass(frozen=True)
class Bench:
    """A checkpoint with two adapters, of different rank and reach, and peft's model of all.

    It has one more: "merged", the exact sum of both by `STRENGTHS`.
    """

    oracle: Oracle
    adapters_dir: Path
    peft: Any

    def load(self, mode: AdapterMode, **options: Any) -> LoadedRunner:
        return load_runner(LoadOptions(str(self.oracle.path), **self._options(mode) | options))

    def engine(self, mode: AdapterMode = AdapterMode.SERVE, **options: Any) -> Engine:
        return Engine.from_pretrained(str(self.oracle.path), **self._options(mode) | options)

    def _options(self, mode: AdapterMode) -> dict[str, Any]:
        return {
            "dtype": "float32",
            "config": CONFIG,
            "adapters_dir": str(self.adapters_dir),
            "adapter_mode": mode,
        }

    def engine_around(self, loaded: LoadedRunner) -> Engine:
        """A new one, with nothing in its prefix cache."""
        return Engine(
            runner=loaded.runner,
            tokenizer=load_tokenizer(self.oracle.path),
            model_config=loaded.model_config,
            config=CONFIG,
            adapters=loaded.adapters,
        )

    def checker(self) -> OracleCheck:
        """Compare the output with an adapter while `peft` acts as that adapter."""
        return OracleCheck({"peft": replace(self.oracle, model=self.peft)})


@pytest.fixture(scope="module", params=STYLES)
def bench(
    request: pytest.FixtureRequest,
    oracles: dict[str, Oracle],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bench:
    oracle, directory = oracles[request.param], tmp_path_factory.mktemp("adapters")
    verse = write_adapter(directory / "verse", oracle.path, seed=1)
    tales = write_adapter(
        directory / "tales", oracle.path, seed=2, r=2, target_modules=["query_key_value", "dense"]
    )
    peft = load_peft(oracle.path, verse, tales)
    peft.add_weighted_adapter([*STRENGTHS], [*STRENGTHS.values()], "merged", "cat")
    return Bench(oracle, directory, peft)


def random_prompts(count: int, *, seed: int = 0) -> list[list[int]]:
    """They all begin similar_prompts, so that blocks could be mistaken."""
    draw = Random(seed)
    return [
        [7, 8, 9, 10, 11, 12] + [draw.randrange(20, 200) for _ in range(draw.randint(1, 20))]
        for _ in range(count)
    ]


def plan_for(sequences: list[tuple[list[int], str | None]]) -> StepPlan:
    """One step over whole prompts, each in blocks of its own."""
    chunks, block = [], 0
    for number, (prompt, adapter) in enumerate(sequences):
        sequence = make_sequence(prompt, arrival=number, adapter=adapter)
        num_blocks = -(-len(prompt) // CONFIG.block_size)
        sequence.block_table = array("i", range(block, block + num_blocks))
        block += num_blocks
        chunks.append(Chunk(SequenceGroup([sequence]), sequence, 0, len(prompt)))
    return StepPlan(tuple(chunks))


@torch.inference_mode()
def peft_logits(bench: Bench, prompt: list[int], adapter: str | None) -> torch.Tensor:
    with acting_as(bench.peft, adapter) as model:
        logits: torch.Tensor = model(torch.tensor([prompt])).logits[0, -1]
    return logits


def test_logits_of_a_batch_of_both_adapters_and_the_model_itself_equal_peft(
    bench: Bench,
) -> None:
    runner = bench.load(AdapterMode.SERVE).runner
    batch = [(prompt, NAMES[i % 3]) for i, prompt in enumerate(random_prompts(7))]
    logits = runner.forward(plan_for(batch))
    expected = torch.stack([peft_logits(bench, *one) for one in batch])
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=CLOSE, atol=CLOSE)


def test_a_request_with_an_adapter_gets_the_output_of_peft(bench: Bench) -> None:
    """Chunked prompts, rows that come and go, and too few blocks for all."""
    engine = bench.engine(config=replace(CONFIG, num_blocks=24))
    scheduled_requests = [
        ScheduledRequest(tuple(prompt), GREEDILY, arrives=i // 3, adapter=NAMES[i % 3])
        for i, prompt in enumerate(random_prompts(18))
    ]
    ours = [result.token_ids(0) for result in run_all(engine, scheduled_requests)]
    assert ours == [peft_greedy(bench, scheduled) for scheduled in scheduled_requests]
    assert engine.num_preemptions > 0


def peft_greedy(bench: Bench, scheduled: ScheduledRequest) -> list[int]:
    with acting_as(bench.peft, scheduled.adapter) as model:
        return generate(model, list(scheduled.prompt), scheduled.params)


def test_greedy_sampled_and_beam_requests_in_one_batch_equal_peft(bench: Bench) -> None:
    engine, checker = bench.engine(), bench.checker()
    results = run_all(engine, mixed_requests(), lambda step: preempt_one(engine, step))
    for scheduled, result in zip(mixed_requests(), results, strict=True):
        with acting_as(bench.peft, scheduled.adapter):
            checker.compare("peft", scheduled, result)
    assert engine.num_preemptions > 5
    assert len(checker.ties) <= 1, checker.ties


def test_an_answer_is_the_same_alone_and_in_a_batch(bench: Bench) -> None:
    loaded, requests = bench.load(AdapterMode.SERVE), mixed_requests()
    together = run_all(bench.engine_around(loaded), requests)
    alone = [
        run_all(bench.engine_around(loaded), [replace(scheduled, arrives=0)])[0]
        for scheduled in requests
    ]
    assert [one.failure is None for one in together] == [one.failure is None for one in alone]
    differing = [
        scheduled
        for scheduled, one, other in zip(requests, together, alone, strict=True)
        if one.failure is None and one.text != other.text
    ]
    assert not differing


def mixed_requests() -> list[ScheduledRequest]:
    """Requests of each decoding mode, with the same prompts under every adapter."""
    mixed = [
        scheduled
        for manner in (GREEDY, SAMPLING, BEAMS)
        for scheduled in examples(scheduled_requests(manner, prompts()), 4)
    ]
    return [
        replace(
            scheduled,
            params=replace(scheduled.params, logprobs=True),
            arrives=number // 2,
            adapter=adapter,
        )
        for number, scheduled in enumerate(mixed)
        for adapter in NAMES
    ]


def preempt_one(engine: Engine, step: int) -> None:
    if step in range(2, 80, 2) and engine.scheduler.running:
        engine.scheduler.preempt(engine.scheduler.running[-1])


def test_a_warm_cache_serves_the_same_adapter_only(bench: Bench) -> None:
    engine = bench.engine()
    prompt = tuple(random_prompts(1)[0] + [5] * 8)
    for name in NAMES:
        scheduled = ScheduledRequest(prompt, GREEDILY, adapter=name)
        before = engine.num_prefix_hit_tokens
        [cold] = run_all(engine, [scheduled])
        assert engine.num_prefix_hit_tokens == before
        [warm] = run_all(engine, [scheduled])
        assert engine.num_prefix_hit_tokens > before
        assert cold.token_ids(0) == warm.token_ids(0) == peft_greedy(bench, scheduled)


@pytest.mark.parametrize("executor", [Executor.TORCH, Executor.OPENVINO])
def test_merged_adapters_are_pefts_sum_of_them_by_their_strengths(
    bench: Bench, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if executor is Executor.OPENVINO and bench.oracle.model.config.alibi:
        pytest.skip("OpenVINO runs no alibi")
    for name, strength in STRENGTHS.items():
        monkeypatch.setenv(name, str(strength))
    loaded = bench.load(AdapterMode.MERGE, executor=executor, config=replace(CONFIG, block_size=32))
    assert not loaded.adapters
    assert isinstance(loaded.runner, OpenVinoRunner) == (executor is Executor.OPENVINO)
    for prompt in random_prompts(3):
        logits = loaded.runner.forward(plan_for([(prompt, None)]))
        expected = peft_logits(bench, prompt, "merged")
        torch.testing.assert_close(logits[0], expected, rtol=CLOSE, atol=CLOSE)


def test_a_served_adapter_is_as_strong_as_the_environment_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("verse", "0")
    runner = bench.load(AdapterMode.SERVE).runner
    [prompt] = random_prompts(1)
    as_verse, as_itself = runner.forward(plan_for([(prompt, "verse"), (prompt, None)]))
    torch.testing.assert_close(as_verse, as_itself)


def test_adapters_are_served_with_8_bit_weights(bench: Bench) -> None:
    """As far from the model in 8 bits as the adapter is from the model, not where it would be."""
    runner = bench.load(AdapterMode.SERVE, quantization=Quantization.INT8).runner
    assert isinstance(runner, ModelRunner)
    [prompt] = random_prompts(1)
    as_verse, as_itself = runner.forward(plan_for([(prompt, "verse"), (prompt, None)]))
    expected, base = (peft_logits(bench, prompt, name) for name in ("verse", None))
    assert (as_verse - expected).norm() < 0.5 * (as_verse - base).norm()
    assert (as_itself - base).norm() < 0.5 * (as_itself - expected).norm()


def test_openvino_leaves_served_adapters_to_torch(bench: Bench) -> None:
    config = EngineConfig(max_rows=2, num_blocks=4)
    runner = bench.load(AdapterMode.SERVE, config=config).runner
    assert isinstance(runner, ModelRunner)
    with pytest.raises(ValueError, match=r"executor openvino cannot run this: .* merge them"):
        bench.load(AdapterMode.SERVE, config=config, executor=Executor.OPENVINO)


def test_an_unknown_adapter_is_refused_with_the_names_of_the_others(bench: Bench) -> None:
    for mode, names in ((AdapterMode.SERVE, "tales, verse"), (AdapterMode.MERGE, "none")):
        engine = bench.engine(mode)
        request = Request(request_id="r", prompt_token_ids=[1], params=GREEDILY, adapter="prose")
        with pytest.raises(
            ValueError, match=rf"must be one of those served \({names}\), not 'prose'"
        ):
            engine.add(request)
        assert not engine.has_work


def test_a_script_names_an_adapter_for_all_its_prompts(bench: Bench) -> None:
    engine = bench.engine()
    [[completion]] = generate_offline(engine, ["Hello"], GREEDILY, adapter="verse")
    prompt = engine.tokenizer.encode("Hello").ids
    scheduled = ScheduledRequest(tuple(prompt), GREEDILY, adapter="verse")
    assert completion.token_ids == peft_greedy(bench, scheduled)


def test_without_adapters_in_the_folder_nothing_is_loaded(oracle: Oracle, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no folder with an adapter_config\.json"):
        Engine.from_pretrained(str(oracle.path), adapters_dir=str(tmp_path))
