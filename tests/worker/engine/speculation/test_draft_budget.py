"""The draft budget of a step, and the sequences that get drafts."""

import pytest

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.config import EngineConfig
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.scheduler import Scheduler
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import StepPlan
from worker.engine.sequence import Sequence

BLOCK_SIZE = 16
EAGER = SamplingParams(max_new_tokens=100, prompt_lookup_num_tokens=8)
SHY = SamplingParams(max_new_tokens=100)


def make_scheduler(*, max_drafting_tokens: int = 100, num_blocks: int = 100) -> Scheduler:
    config = EngineConfig(
        block_size=BLOCK_SIZE, max_step_tokens=64, max_drafting_tokens=max_drafting_tokens
    )
    return Scheduler(config, BlockManager(num_blocks, BLOCK_SIZE))


def add(scheduler: Scheduler, *wishes: SamplingParams, num_prompt: int = 4) -> list[Sequence]:
    """Sequences that repeat one token each, and are to decode in the next step."""
    sequences = [
        make_sequence([arrival] * num_prompt, params, arrival=arrival)
        for arrival, params in enumerate(wishes)
    ]
    for sequence in sequences:
        scheduler.add_group(SequenceGroup([sequence]))
    step(scheduler, accepting=0)
    return sequences


def step(scheduler: Scheduler, *, accepting: int = 100) -> StepPlan:
    """One step, in which at most so many drafts of each sequence are accepted."""
    plan = scheduler.schedule()
    chunks = plan.sampled_chunks
    scheduler.record_computed(plan)
    for chunk in chunks:
        sequence = chunk.sequence
        scheduler.append_tokens(sequence, [*chunk.drafts[:accepting], sequence.arrival])
    scheduler.block_manager.check_integrity(g.sequences[0] for g in scheduler.running)
    return plan


def num_drafts(plan: StepPlan) -> list[int]:
    return [len(chunk.drafts) for chunk in plan.chunks]


def test_only_requests_that_ask_for_drafts_get_them() -> None:
    scheduler = make_scheduler()
    add(scheduler, SHY, EAGER)
    plan = scheduler.schedule()
    assert [chunk.drafts for chunk in plan.chunks] == [(), (1,) * 8]
    assert [chunk.num_tokens for chunk in plan.chunks] == [1, 9]
    assert plan.chunks[1].token_ids == [1] * 9
    assert [len(chunk.sampled) for chunk in plan.chunks] == [1, 9]


def test_drafts_fill_a_step_only_as_far_as_they_cost_little() -> None:
    for max_tokens, expected in ((16, [4, 4, 4, 0]), (7, [1, 1, 1, 0]), (5, [0, 0, 1, 0])):
        scheduler = make_scheduler(max_drafting_tokens=max_tokens)
        add(scheduler, EAGER, EAGER, EAGER, SHY)
        assert num_drafts(scheduler.schedule()) == expected


def test_a_pausing_proposer_leaves_its_budget_to_others() -> None:
    scheduler = make_scheduler(max_drafting_tokens=11)
    first, *_ = add(scheduler, EAGER, EAGER, EAGER)
    assert num_drafts(scheduler.schedule()) == [2, 3, 3]
    assert first.proposer is not None
    first.proposer.record(2, 0, first.num_tokens)
    assert num_drafts(scheduler.schedule()) == [0, 4, 4]


def test_a_step_full_of_prompt_tokens_gets_no_drafts() -> None:
    scheduler = make_scheduler(max_drafting_tokens=16)
    add(scheduler, EAGER)
    scheduler.add_group(SequenceGroup([make_sequence(list(range(40)), SHY, arrival=5)]))
    assert num_drafts(scheduler.schedule()) == [0, 0]


def test_the_end_of_a_prompt_may_be_followed_by_drafts() -> None:
    scheduler = make_scheduler()
    scheduler.add_group(SequenceGroup([make_sequence([7] * 5, EAGER)]))
    [chunk] = scheduler.schedule().chunks
    assert (chunk.start, chunk.num_tokens, len(chunk.drafts)) == (0, 13, 8)


@pytest.mark.parametrize(("num_prompt", "expected"), [(9, 6), (14, 1), (15, 0), (16, 8)])
def test_drafts_take_no_block_that_their_sequence_does_not_have(
    num_prompt: int, expected: int
) -> None:
    scheduler = make_scheduler(num_blocks=3)
    [sequence] = add(scheduler, EAGER, num_prompt=num_prompt)
    num_blocks = -(-sequence.num_tokens // BLOCK_SIZE)
    assert num_drafts(scheduler.schedule()) == [expected]
    assert len(sequence.block_table) == num_blocks


def test_drafts_end_before_the_last_token_of_a_sequence() -> None:
    scheduler = make_scheduler()
    [sequence] = add(scheduler, SamplingParams(max_new_tokens=5, prompt_lookup_num_tokens=8))
    assert num_drafts(step(scheduler)) == [3]
    assert sequence.num_tokens == sequence.max_length


def test_accepted_drafts_are_computed_and_rejected_drafts_are_not() -> None:
    scheduler = make_scheduler()
    [sequence] = add(scheduler, EAGER)
    step(scheduler, accepting=3)
    assert (sequence.num_tokens, sequence.num_computed_tokens) == (9, 8)
    step(scheduler, accepting=0)
    assert (sequence.num_tokens, sequence.num_computed_tokens) == (10, 9)


def test_only_blocks_of_accepted_drafts_are_found_by_other_sequences() -> None:
    for accepting, num_hits in ((100, BLOCK_SIZE), (0, 0)):
        scheduler = make_scheduler()
        add(scheduler, EAGER, num_prompt=BLOCK_SIZE - 8)
        step(scheduler, accepting=accepting)
        scheduler.add_group(SequenceGroup([make_sequence([0] * 17, SHY, arrival=9)]))
        scheduler.schedule()
        assert scheduler.block_manager.num_prefix_hit_tokens == num_hits
