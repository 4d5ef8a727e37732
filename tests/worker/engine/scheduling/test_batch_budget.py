"""Requests of batches next to others: what joins a step, and what pauses."""

import pytest

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.config import EngineConfig
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.scheduler import Scheduler
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import StepPlan

BLOCK_SIZE = 4
CHUNK_TOKENS = 10  # so a step in which one sequence decodes costs 10


def make_scheduler(batch_share: float, *, max_step_tokens: int = 64) -> Scheduler:
    config = EngineConfig(
        max_rows=16,
        block_size=BLOCK_SIZE,
        max_step_tokens=max_step_tokens,
        max_chunk_tokens=CHUNK_TOKENS,
        batch_share=batch_share,
    )
    return Scheduler(config, BlockManager(2000, BLOCK_SIZE))


def add(scheduler: Scheduler, *prompt_lengths: int, gives_way: bool = False) -> list[SequenceGroup]:
    """Add groups of a single sequence without a common prefix."""
    first = len(scheduler.groups)
    groups = [
        SequenceGroup([make_sequence([arrival] * length, arrival=arrival, gives_way=gives_way)])
        for arrival, length in enumerate(prompt_lengths, start=first)
    ]
    for group in groups:
        scheduler.add_group(group)
    return groups


def run(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    sampled = plan.sampled
    scheduler.record_computed(plan)
    for sequence in sampled:
        sequence.append(sequence.arrival)
    return plan


def split(scheduler: Scheduler, search: SequenceGroup, num_beams: int) -> None:
    """Compute the prompt of a search, and give it its beams."""
    plan = scheduler.schedule()
    scheduler.record_computed(plan)
    [sequence] = plan.sampled
    scheduler.replace_sequences(search, [(sequence, token) for token in range(num_beams)])


def batch_tokens(plan: StepPlan) -> int:
    return sum(chunk.num_tokens for chunk in plan.chunks if chunk.group.gives_way)


def test_a_batch_alone_fills_the_step() -> None:
    scheduler = make_scheduler(0.1)
    add(scheduler, *[2] * 10, gives_way=True)
    assert [batch_tokens(run(scheduler)) for _ in range(3)] == [20, 10, 10]


@pytest.mark.parametrize(("share", "expected"), [(0.15, 1), (0.55, 5), (0.0, 0)])
def test_a_batch_adds_its_share_to_every_step_in_which_others_decode(
    share: float, expected: int
) -> None:
    scheduler = make_scheduler(share)
    add(scheduler, *[2] * 10, gives_way=True)
    run(scheduler)
    add(scheduler, 1)
    run(scheduler)
    assert {batch_tokens(run(scheduler)) for _ in range(50)} == {expected}


def test_a_paused_batch_keeps_its_blocks_and_continues_when_others_have_ended() -> None:
    scheduler = make_scheduler(0.0)
    [paused] = add(scheduler, 9, gives_way=True)
    run(scheduler)
    [other] = add(scheduler, 2)
    for _ in range(5):
        assert batch_tokens(run(scheduler)) == 0
    assert paused.sequences[0].num_computed_tokens == 9
    assert len(paused.sequences[0].block_table) == 3
    scheduler.finish_group(other)
    assert batch_tokens(run(scheduler)) == 1
    assert scheduler.num_preemptions == 0


def test_a_share_below_a_row_lets_every_row_of_a_batch_end_in_turn() -> None:
    scheduler = make_scheduler(0.01)
    groups = add(scheduler, 3, 3, gives_way=True)
    add(scheduler, 1)
    for _ in range(200):
        run(scheduler)
        for group in [group for group in groups if group.sequences[0].num_generated_tokens == 2]:
            scheduler.finish_group(group)
            groups.remove(group)
    assert groups == []


def test_beams_of_a_batch_join_a_step_together() -> None:
    scheduler = make_scheduler(0.1)
    [search] = add(scheduler, 2, gives_way=True)
    search.num_rows = 4
    split(scheduler, search, 4)
    add(scheduler, 1)
    counts = []
    for _ in range(20):
        plan = scheduler.schedule()
        scheduler.record_computed(plan)
        for group in plan.sampled_groups:
            if group is search:
                scheduler.replace_sequences(group, [(s, s.index) for s in group.sequences])
            else:
                scheduler.append_tokens(group.sequences[0], [1])
        counts.append(batch_tokens(plan))
    assert set(counts) == {0, 4}
    scheduler.block_manager.check_integrity(s for g in scheduler.running for s in g.sequences)


def test_copies_of_blocks_wait_with_the_paused_beams() -> None:
    scheduler = make_scheduler(0.0)
    [search] = add(scheduler, 6, gives_way=True)
    search.num_rows = 2
    split(scheduler, search, 2)
    [other] = add(scheduler, 1)
    assert run(scheduler).block_copies == []
    assert run(scheduler).block_copies == []
    scheduler.finish_group(other)
    assert len(scheduler.schedule().block_copies) == 1


def test_a_batch_runs_after_all_others_whatever_its_priority() -> None:
    scheduler = make_scheduler(0.0)
    scheduler.add_group(SequenceGroup([make_sequence([1], priority=9, gives_way=True)]))
    scheduler.add_group(SequenceGroup([make_sequence([2], arrival=1, priority=-9)]))
    plan = scheduler.schedule()
    assert [chunk.sequence.arrival for chunk in plan.chunks] == [1]


def test_steps_full_of_prompts_save_up_no_long_step_of_a_batch() -> None:
    scheduler = make_scheduler(0.1, max_step_tokens=16)
    add(scheduler, 400)
    add(scheduler, *[2] * 10, gives_way=True)
    for _ in range(25):  # no token is left for the batch
        assert batch_tokens(run(scheduler)) == 0
    assert batch_tokens(run(scheduler)) <= 2


@pytest.mark.parametrize("share", [-0.1, float("inf"), float("nan")])
def test_a_share_without_meaning_is_refused_by_name(share: float) -> None:
    with pytest.raises(ValueError, match="batch_share must be at least 0"):
        EngineConfig(batch_share=share)
