"""Whatever is asked, in whatever company: what transformers would say to that prompt alone.

A failure prints one line of Python that plays the smallest failing company again.
"""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.worker.engine import court, oracle
from tests.worker.engine.company import Company, spell
from tests.worker.engine.company_strategies import companies, examples, rows
from tests.worker.engine.court import Court, reproduction
from tests.worker.engine.oracle import Judge
from tests.worker.engine.param_strategies import ANY, BEAMS, GREEDY, SAMPLING, VOCAB_SIZE, Params
from worker.engine import EngineConfig, Executor, SamplingParams
from worker.engine.sampling.logits_processors import process
from worker.engine.sequence import Sequence
from worker.model.openvino_falcon import BLOCK_SIZE

NUM_COMPANIES = 180  # per manner of decoding, over all styles
NUM_ON_OPENVINO = 100
NUM_BATCHES = 200

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints:UserWarning")

steady = settings(
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def hold_court(
    judges: dict[str, Judge], strategy: SearchStrategy[Company], num_companies: int
) -> Court:
    """Hear that many companies."""
    court = Court(judges)

    @settings(steady, max_examples=num_companies)
    @given(strategy)
    def hear(company: Company) -> None:
        note(reproduction(company))
        court.hear(company)

    hear()
    assert court.num_judged >= 2 * num_companies
    assert len(court.ties) <= court.num_judged / 100, court.ties
    return court


@pytest.mark.parametrize("leading", [GREEDY, SAMPLING, BEAMS], ids=["greedy", "sampling", "beams"])
def test_every_guest_gets_what_transformers_gives_it_alone(
    judges: dict[str, Judge], leading: Params
) -> None:
    court = hold_court(judges, companies(leading), NUM_COMPANIES)
    assert court.num_preemptions > 50
    assert court.num_prefix_hit_tokens > 400


def test_every_guest_of_openvino_gets_what_transformers_gives_it_alone(
    judges: dict[str, Judge],
) -> None:
    court = hold_court(judges, companies(ANY).map(on_openvino), NUM_ON_OPENVINO)
    assert court.num_preemptions > 50
    assert court.num_prefix_hit_tokens > 4_000


def on_openvino(company: Company) -> Company:
    """The same on the other executor, which knows one size of blocks and no alibi.

    All prompts begin with the same block. One engine for all companies, for it takes long to
    make: the largest guest just fits in.
    """
    config = EngineConfig(
        max_rows=8, num_blocks=11, block_size=BLOCK_SIZE, max_step_tokens=24, max_chunk_tokens=8
    )
    first_block = tuple(range(20, 20 + BLOCK_SIZE))
    return replace(
        company,
        style="7b" if company.style == "rw" else company.style,
        config=config,
        guests=tuple(replace(guest, prompt=first_block + guest.prompt) for guest in company.guests),
        executor=Executor.OPENVINO,
    )


@settings(steady, max_examples=NUM_BATCHES)
@given(st.lists(rows(), min_size=1, max_size=6), st.integers(0, 2**32))
def test_scores_of_a_mixed_batch_are_processed_as_transformers_processes_each_row(
    judges: dict[str, Judge], batch: list[Sequence], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(batch), VOCAB_SIZE, generator=generator) * 3
    ours = process(logits.clone(), batch)
    for sequence, row, processed in zip(batch, logits, ours, strict=True):
        theirs = oracle.process(judges["7b"].model, sequence, row)
        context = f"{sequence.token_ids}, {spell(sequence.params)}, seed {seed}"
        if theirs.amax().isfinite():
            torch.testing.assert_close(processed, theirs, rtol=1e-5, atol=1e-5, msg=context.__add__)
        else:
            assert not processed.amax().isfinite(), context


def test_the_companies_use_every_parameter() -> None:
    default = SamplingParams()
    used = {
        field.name
        for company in examples(companies(ANY), 50)
        for guest in company.guests
        for field in fields(SamplingParams)
        if getattr(guest.params, field.name) != getattr(default, field.name)
    }
    # The court asks everybody's log-probabilities; diverse beams are tested on recorded answers.
    elsewhere = {"logprobs", "num_beam_groups", "diversity_penalty", "pad_token_id"}
    assert used | elsewhere == {field.name for field in fields(SamplingParams)}


def test_a_company_spelled_out_is_the_same_company() -> None:
    for company in examples(companies(ANY), 20):
        assert eval(spell(company), vars(court)) == company
