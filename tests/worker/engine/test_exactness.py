"""Random workloads: every request gets the output of transformers for its prompt alone.

A failure prints one line of Python that runs the smallest failing workload again.
"""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.worker.engine import oracle, oracle_check
from tests.worker.engine.oracle import Oracle
from tests.worker.engine.oracle_check import OracleCheck, reproduction
from tests.worker.engine.param_strategies import ANY, BEAMS, GREEDY, SAMPLING, VOCAB_SIZE, Params
from tests.worker.engine.workload import Workload, to_source
from tests.worker.engine.workload_strategies import examples, rows, workloads
from worker.engine import EngineConfig, Executor, SamplingParams
from worker.engine.sampling.logits_processors import process
from worker.engine.sequence import Sequence
from worker.model.openvino_falcon import BLOCK_SIZE

NUM_WORKLOADS = 100  # per decoding mode, over all styles
NUM_ON_OPENVINO = 60
NUM_BATCHES = 100

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")

steady = settings(
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check_workloads(
    oracles: dict[str, Oracle], strategy: SearchStrategy[Workload], num_workloads: int
) -> OracleCheck:
    """Check `num_workloads` workloads."""
    checker = OracleCheck(oracles)

    @settings(steady, max_examples=num_workloads)
    @given(strategy)
    def check(workload: Workload) -> None:
        note(reproduction(workload))
        checker.check(workload)

    check()
    assert checker.num_compared >= 2 * num_workloads
    assert len(checker.ties) <= checker.num_compared / 100, checker.ties
    return checker


@pytest.mark.parametrize("leading", [GREEDY, SAMPLING, BEAMS], ids=["greedy", "sampling", "beams"])
def test_every_request_gets_the_output_that_transformers_gives_it_alone(
    oracles: dict[str, Oracle], leading: Params
) -> None:
    checker = check_workloads(oracles, workloads(leading), NUM_WORKLOADS)
    assert checker.num_preemptions > 50
    assert checker.num_prefix_hit_tokens > 200


def test_every_request_on_openvino_gets_the_output_that_transformers_gives_it_alone(
    oracles: dict[str, Oracle],
) -> None:
    checker = check_workloads(oracles, workloads(ANY).map(on_openvino), NUM_ON_OPENVINO)
    assert checker.num_preemptions > 30
    assert checker.num_prefix_hit_tokens > 2_000


def on_openvino(workload: Workload) -> Workload:
    """Return the workload for OpenVINO, which has one block size and no alibi.

    All prompts begin with the same block. All workloads use one engine, which takes long to make;
    the largest request just fits in its KV cache.
    """
    config = EngineConfig(
        max_rows=8, num_blocks=11, block_size=BLOCK_SIZE, max_step_tokens=24, max_chunk_tokens=8
    )
    first_block = tuple(range(20, 20 + BLOCK_SIZE))
    return replace(
        workload,
        style="7b" if workload.style == "rw" else workload.style,
        config=config,
        requests=tuple(
            replace(scheduled, prompt=first_block + scheduled.prompt)
            for scheduled in workload.requests
        ),
        executor=Executor.OPENVINO,
    )


@settings(steady, max_examples=NUM_BATCHES)
@given(st.lists(rows(), min_size=1, max_size=6), st.integers(0, 2**32))
def test_scores_of_a_mixed_batch_are_processed_as_transformers_processes_each_row(
    oracles: dict[str, Oracle], batch: list[Sequence], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(batch), VOCAB_SIZE, generator=generator) * 3
    ours = process(logits.clone(), batch)
    for sequence, row, processed in zip(batch, logits, ours, strict=True):
        theirs = oracle.process(oracles["7b"].model, sequence, row)
        context = f"{sequence.token_ids}, {to_source(sequence.params)}, seed {seed}"
        if theirs.amax().isfinite():
            torch.testing.assert_close(processed, theirs, rtol=1e-5, atol=1e-5, msg=context.__add__)
        else:
            assert not processed.amax().isfinite(), context


def test_the_workloads_use_every_parameter() -> None:
    default = SamplingParams()
    used = {
        field.name
        for params in examples(ANY, 100)
        for field in fields(SamplingParams)
        if getattr(params, field.name) != getattr(default, field.name)
    }
    # The checker sets logprobs; diverse beams are tested on recorded answers; transformers lacks
    # the rest, which have tests of their own.
    elsewhere = {"logprobs", "num_beam_groups", "diversity_penalty", "pad_token_id"}
    elsewhere |= {"presence_penalty", "frequency_penalty", "include_stop"}
    elsewhere |= {"prompt_logprobs", "raw_logprobs", "grammar"}
    assert used | elsewhere == {field.name for field in fields(SamplingParams)}


def test_the_printed_form_of_a_workload_evaluates_to_the_same_workload() -> None:
    for workload in examples(workloads(ANY), 10):
        assert eval(to_source(workload), vars(oracle_check)) == workload
