"""A tensor-parallel network gives the tokens of the whole one; a lost process breaks it."""

import multiprocessing
import os
import signal
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors import safe_open

from tests.worker.engine.oracle import generate, load_oracle, silence
from tests.worker.engine.tensor_parallel.children import WAIT_S, children_left
from worker.engine import Engine, EngineBroken, EngineConfig, Executor, Request, SamplingParams
from worker.engine.outputs import TokenOutput
from worker.engine.tensor_parallel import processes as followers
from worker.engine.tensor_parallel.runner import TensorParallelRunner
from worker.model.checkpoint.random_checkpoint import write_random_checkpoint
from worker.model.tensor_parallel import TensorParallel

SMALL_CACHE = EngineConfig(max_rows=8, num_blocks=18, block_size=4, max_step_tokens=24)
GREEDY = SamplingParams(max_new_tokens=12, prompt_lookup_num_tokens=3)

pytestmark = pytest.mark.usefixtures("no_process_is_left")


def load(path: Path) -> Engine:
    return Engine.from_pretrained(
        str(path), dtype="float32", device="cpu", tensor_parallel=2, config=SMALL_CACHE
    )


def run(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    for number, prompt in enumerate(prompts):
        engine.add(Request(request_id=str(number), prompt_token_ids=prompt, params=GREEDY))
    generated: list[list[int]] = [[] for _ in prompts]
    num_drafts = 0
    while engine.has_work:
        for output in engine.step():
            assert isinstance(output, TokenOutput), output
            generated[int(output.request_id)].append(output.token_id)
        num_drafts += engine.last_step.num_drafts
    assert num_drafts > 0, "no draft was proposed"
    return generated


@pytest.mark.parametrize("like", ["40b", "rw"])
def test_two_processes_give_the_tokens_of_one(like: str, tmp_path: Path) -> None:
    silence()
    oracle = load_oracle(write_random_checkpoint(tmp_path / like, like=like))[0]
    engine, draw = load(tmp_path / like), Random(0)
    prompts = [[draw.randrange(20, 200) for _ in range(draw.randint(1, 30))] for _ in range(12)]
    assert run(engine, prompts) == [generate(oracle, prompt, GREEDY) for prompt in prompts]
    assert engine.num_preemptions > 0, "blocks must be copied and computed again on both"
    assert isinstance(engine.runner, TensorParallelRunner)
    [kv_cache] = engine.runner.runner.kv_caches
    assert kv_cache.keys.shape[2] == engine.model_config.num_kv_heads // 2, "each its own KV heads"
    report, memory = engine.load_report, engine.load_report.memory
    assert memory is not None
    assert memory.kv_tokens == engine.total_kv_tokens
    assert 2 * memory.kv_bytes_per_token == engine.model_config.kv_bytes_per_token(torch.float32)
    assert report.read_bytes < 4 * engine.model_config.num_parameters, "each reads its own part"


@pytest.mark.parametrize("like", ["40b", "rw"])
def test_the_parts_of_a_weight_make_up_the_whole(like: str, tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path, like=like)
    with safe_open(path / "model.safetensors", framework="pt") as stored:
        for name in stored.keys():
            whole = stored.get_tensor(name)
            one, other = (
                TensorParallel(rank, 2).read(name, stored.get_slice(name)) for rank in range(2)
            )
            if one.shape == whole.shape:
                assert torch.equal(one, whole)
                assert torch.equal(other, whole) or not other.any()
            else:
                dim = [one.shape[i] != size for i, size in enumerate(whole.shape)].index(True)
                assert torch.equal(torch.cat([one, other], dim), whole)


def test_a_network_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path, like="7b")
    with pytest.raises(ValueError, match=r"tensor_parallel 2 does not divide .* 1 KV heads"):
        load(path)


def test_openvino_does_not_support_tensor_parallelism(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="executor torch"):
        Engine.from_pretrained(str(tmp_path), executor=Executor.OPENVINO, tensor_parallel=2)


def test_a_lost_process_breaks_the_engine(tmp_path: Path) -> None:
    engine = load(write_random_checkpoint(tmp_path, like="40b"))
    engine.add(Request(request_id="a", prompt_token_ids=[30, 31], params=GREEDY))
    engine.step()
    [rank] = multiprocessing.active_children()
    rank.kill()
    rank.join()
    with pytest.raises(EngineBroken):
        while engine.has_work:
            engine.step()


def load_in_three(path: Path) -> Engine:
    write_random_checkpoint(path, like="40b", hidden_size=96, num_heads=6, num_kv_heads=3)
    return Engine.from_pretrained(
        str(path), dtype="float32", device="cpu", tensor_parallel=3, config=SMALL_CACHE
    )


def test_a_frozen_process_breaks_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_in_three(tmp_path)
    engine.add(Request(request_id="a", prompt_token_ids=[30, 31], params=GREEDY))
    engine.step()
    monkeypatch.setattr(followers, "SILENCE_LIMIT_S", 2.0)
    frozen = multiprocessing.active_children()[1]
    assert frozen.pid is not None
    os.kill(frozen.pid, signal.SIGSTOP)
    with pytest.raises(EngineBroken):
        engine.step()
    assert "the process did not respond" in engine.process_failure.result()
    assert not children_left(), "the other rank must not stay in its sum"


def test_a_process_lost_while_the_engine_is_idle_is_detected(tmp_path: Path) -> None:
    engine = load(write_random_checkpoint(tmp_path, like="40b"))
    [rank] = multiprocessing.active_children()
    rank.kill()
    reason = engine.process_failure.result(timeout=WAIT_S)
    assert reason == "rank 1 of 2 failed: the process ended (killed by SIGKILL)"


def test_a_step_that_fails_only_in_the_driver_breaks_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the sums of the next step would complete the sums that the other rank waits in."""
    engine = load(write_random_checkpoint(tmp_path, like="40b"))
    assert isinstance(engine.runner, TensorParallelRunner)

    def run_out_of_memory(*_: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner.runner, "run_layers", run_out_of_memory)
        engine.add(Request(request_id="a", prompt_token_ids=[30, 31], params=GREEDY))
        with pytest.raises(EngineBroken):
            engine.step()
    assert engine.process_failure.result() == "rank 0 failed in a step: no room"
