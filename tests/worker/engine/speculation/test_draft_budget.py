"""Which steps have room for drafts, and whose they are."""

import pytest

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.config import EngineConfig
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.scheduler import Scheduler
from worker.engine.scheduling.step_plan import StepPlan
from worker.engine.sequence import Sequence
from worker.engine.sequence_group import SequenceGroup

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
        scheduler.add(SequenceGroup([sequence]))
    step(scheduler, accepting=0)
    return sequences


def step(scheduler: Scheduler, *, accepting: int = 100) -> StepPlan:
    """One step, in which at most so many drafts of each sequence are accepted."""
    plan = scheduler.schedule()
    chunks = plan.sampled_chunks
    scheduler.update(plan)
    for chunk in chunks:
        sequence = chunk.sequence
        scheduler.extend(sequence, [*chunk.drafts[:accepting], sequence.arrival])
    scheduler._block_manager.check_integrity(g.sequences[0] for g in scheduler.running)
    return plan


def num_drafts(plan: StepPlan) -> list[int]:
    return [len(chunk.drafts) for chunk in plan.chunks]


def test_who_asks_for_drafts_gets_them_and_nobody_else() -> None:
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


def test_who_pauses_leaves_the_room_to_others() -> None:
    scheduler = make_scheduler(max_drafting_tokens=11)
    first, *_ = add(scheduler, EAGER, EAGER, EAGER)
    assert num_drafts(scheduler.schedule()) == [2, 3, 3]
    assert first.lookup is not None
    first.lookup.note(0, first.num_tokens)
    assert num_drafts(scheduler.schedule()) == [0, 4, 4]


def test_a_step_that_reads_prompts_has_no_room() -> None:
    scheduler = make_scheduler(max_drafting_tokens=16)
    add(scheduler, EAGER)
    scheduler.add(SequenceGroup([make_sequence(list(range(40)), SHY, arrival=5)]))
    assert num_drafts(scheduler.schedule()) == [0, 0]


def test_the_end_of_a_prompt_may_be_followed_by_drafts() -> None:
    scheduler = make_scheduler()
    scheduler.add(SequenceGroup([make_sequence([7] * 5, EAGER)]))
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


def test_no_draft_reaches_the_last_token_which_is_never_computed() -> None:
    scheduler = make_scheduler()
    [sequence] = add(scheduler, SamplingParams(max_new_tokens=5, prompt_lookup_num_tokens=8))
    assert num_drafts(step(scheduler)) == [3]
    assert sequence.num_tokens == sequence.max_length


def test_accepted_drafts_are_computed_and_rejected_ones_are_not() -> None:
    scheduler = make_scheduler()
    [sequence] = add(scheduler, EAGER)
    step(scheduler, accepting=3)
    assert (sequence.num_tokens, sequence.num_computed_tokens) == (9, 8)
    step(scheduler, accepting=0)
    assert (sequence.num_tokens, sequence.num_computed_tokens) == (10, 9)


def test_a_block_of_accepted_drafts_is_found_by_others_and_one_of_rejected_ones_is_not() -> None:
    for accepting, num_hits in ((100, BLOCK_SIZE), (0, 0)):
        scheduler = make_scheduler()
        add(scheduler, EAGER, num_prompt=BLOCK_SIZE - 8)
        step(scheduler, accepting=accepting)
        scheduler.add(SequenceGroup([make_sequence([0] * 17, SHY, arrival=9)]))
        scheduler.schedule()
        assert scheduler._block_manager.num_prefix_hit_tokens == num_hits
