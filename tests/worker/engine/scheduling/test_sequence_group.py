"""Beams in the scheduler: one step for all, shared blocks, and how they catch up."""

import pytest

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.config import EngineConfig
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.scheduler import Scheduler
from worker.engine.scheduling.sequence_group import GroupStatus, SequenceGroup
from worker.engine.scheduling.step_plan import StepPlan

BLOCK_SIZE = 4


def make_scheduler(*, num_blocks: int = 100, max_rows: int = 8) -> Scheduler:
    config = EngineConfig(max_rows=max_rows, block_size=BLOCK_SIZE, max_step_tokens=16)
    return Scheduler(config, BlockManager(num_blocks, BLOCK_SIZE))


def add_beams(
    scheduler: Scheduler, prompt: list[int], num_beams: int, *, max_new_tokens: int = 20
) -> SequenceGroup:
    arrival = len(scheduler.waiting) + len(scheduler.running)
    params = SamplingParams(max_new_tokens=max_new_tokens)
    group = SequenceGroup([make_sequence(prompt, params, arrival=arrival)], num_rows=num_beams)
    scheduler.add_group(group)
    return group


def run(scheduler: Scheduler) -> StepPlan:
    """One step; each search that gets logits continues with different tokens for each beam."""
    plan = scheduler.schedule()
    groups = plan.sampled_groups
    scheduler.record_computed(plan)
    for group in groups:
        go_on(scheduler, group)
    return plan


def go_on(scheduler: Scheduler, group: SequenceGroup) -> None:
    parents = (group.sequences * group.num_rows)[: group.num_rows]
    scheduler.replace_sequences(group, [(parent, slot) for slot, parent in enumerate(parents)])


def num_held(scheduler: Scheduler) -> int:
    manager = scheduler.block_manager
    manager.check_integrity(s for group in scheduler.running for s in group.sequences)
    return manager.num_blocks - manager.num_free_blocks


def shares(plan: StepPlan) -> list[tuple[int, int, int]]:
    """(index, start, tokens) of each chunk."""
    return [(chunk.sequence.index, chunk.start, chunk.num_tokens) for chunk in plan.chunks]


def test_one_sequence_computes_the_prompt_then_all_beams_go_in_step() -> None:
    scheduler = make_scheduler()
    group = add_beams(scheduler, [7] * 20, 3)
    plans = [run(scheduler) for _ in range(4)]
    assert [shares(plan) for plan in plans] == [
        [(0, 0, 16)],
        [(0, 16, 4)],
        [(0, 20, 1), (1, 20, 1), (2, 20, 1)],
        [(0, 21, 1), (1, 21, 1), (2, 21, 1)],
    ]
    assert [s.token_ids[20:] for s in group.sequences] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_replace_sequences_returns_the_new_sequences_in_order() -> None:
    scheduler = make_scheduler()
    group = add_beams(scheduler, [7, 7], 3)
    run(scheduler)
    first, _, third = group.sequences
    scheduler.record_computed(scheduler.schedule())
    children = scheduler.replace_sequences(group, [(third, 5), (first, 6), (third, 8)])
    assert children == group.sequences
    assert [child.token_ids for child in children] == [[7, 7, 2, 5], [7, 7, 0, 6], [7, 7, 2, 8]]
    assert [child.index for child in children] == [0, 1, 2]


def test_beams_share_the_prompt_and_copy_only_a_block_that_is_not_full() -> None:
    scheduler = make_scheduler()
    group = add_beams(scheduler, [7] * 10, 3)
    run(scheduler)
    assert num_held(scheduler) == 3
    plan = run(scheduler)
    assert num_held(scheduler) == 5
    tables = [sequence.block_table for sequence in group.sequences]
    assert len({tuple(table[:2]) for table in tables}) == 1
    assert len({table[2] for table in tables}) == 3
    assert len(plan.block_copies) == 2
    assert len({block_copy.source for block_copy in plan.block_copies}) == 1
    assert scheduler.schedule().block_copies == []


def test_beams_that_are_dropped_give_their_blocks_back() -> None:
    scheduler = make_scheduler()
    group = add_beams(scheduler, [7] * 8, 4)
    for _ in range(5):
        run(scheduler)
    scheduler.record_computed(scheduler.schedule())
    held = num_held(scheduler)
    scheduler.replace_sequences(group, [(group.sequences[1], 1)])
    assert (held, num_held(scheduler)) == (2 + 4 * 2, 2 + 2)


def test_a_beam_search_is_admitted_only_if_all_its_rows_fit() -> None:
    scheduler = make_scheduler(max_rows=4)
    add_beams(scheduler, [1], 2)
    late = add_beams(scheduler, [2], 3)
    run(scheduler)
    assert late.status is GroupStatus.WAITING
    assert (scheduler.num_running_rows, scheduler.num_waiting_rows) == (2, 3)
    scheduler.finish_group(scheduler.running[0])
    run(scheduler)
    assert late.status is GroupStatus.RUNNING


def test_finishing_a_search_frees_every_beam() -> None:
    scheduler = make_scheduler()
    group = add_beams(scheduler, [7] * 10, 3)
    for _ in range(5):
        run(scheduler)
    scheduler.finish_group(group)
    assert num_held(scheduler) == 0
    assert not scheduler.schedule()


def preempted(scheduler: Scheduler) -> SequenceGroup:
    """Beams with 10 prompt tokens and 5 more of their own, sent back; their room is taken."""
    group = add_beams(scheduler, [7] * 10, 3)
    for _ in range(5):
        run(scheduler)
    scheduler.preempt(group)
    manager = scheduler.block_manager
    thief = make_sequence([9] * manager.num_blocks * BLOCK_SIZE)
    manager.allocate(thief)
    manager.free(thief)
    return group


def test_beams_catch_up_one_after_the_other_and_find_what_they_have_in_common() -> None:
    scheduler = make_scheduler()
    group = preempted(scheduler)
    plans = [run(scheduler) for _ in range(4)]
    assert [shares(plan) for plan in plans] == [
        [(0, 0, 14)],
        [(1, 8, 6)],
        [(2, 8, 6)],
        [(0, 14, 1), (1, 14, 1), (2, 14, 1)],
    ]
    assert [plan.sampled for plan in plans[:3]] == [[], [], []]
    assert plans[3].sampled_groups == [group]
    assert num_held(scheduler) == 2 + 3 * 2


def test_beams_that_need_the_whole_cache_catch_up_in_it() -> None:
    num_blocks = 2 + 3 * 2
    scheduler = make_scheduler(num_blocks=num_blocks)
    group = add_beams(scheduler, [7] * 10, 3, max_new_tokens=7)
    assert group.max_blocks(BLOCK_SIZE) == num_blocks
    for _ in range(6):
        run(scheduler)
    scheduler.preempt(group)
    thief = make_sequence([9] * num_blocks * BLOCK_SIZE)
    scheduler.block_manager.allocate(thief)
    scheduler.block_manager.free(thief)
    while not run(scheduler).sampled:
        assert scheduler.num_preemptions == 1
    assert num_held(scheduler) == num_blocks


def test_preempted_beams_with_cached_blocks_continue_at_once() -> None:
    scheduler = make_scheduler()
    group = add_beams(scheduler, [7] * 12, 3)
    run(scheduler)
    scheduler.preempt(group)
    assert shares(run(scheduler)) == [(0, 12, 1), (1, 12, 1), (2, 12, 1)]


def test_a_search_preempted_while_it_catches_up_starts_again() -> None:
    scheduler = make_scheduler()
    group = preempted(scheduler)
    run(scheduler)
    run(scheduler)
    scheduler.preempt(group)
    assert num_held(scheduler) == 0
    while not run(scheduler).sampled:
        assert group.status is GroupStatus.RUNNING
    assert {sequence.num_tokens for sequence in group.sequences} == {16}


def test_no_block_is_copied_for_preempted_beams() -> None:
    scheduler = make_scheduler(num_blocks=5)
    old, young = add_beams(scheduler, [1] * 4, 1), add_beams(scheduler, [2] * 6, 3)
    assert run(scheduler).sampled_groups == [old, young]
    plan = scheduler.schedule()  # room for the first beam's copy, not for the second's
    assert plan.groups == [old]
    assert (plan.block_copies, young.status) == ([], GroupStatus.WAITING)


@pytest.mark.parametrize("num_prompt_tokens", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("num_beams", [1, 2, 5])
@pytest.mark.parametrize("max_new_tokens", [1, 2, 4, 5, 9])
def test_the_most_blocks_a_search_may_need_are_enough_and_no_fewer(
    num_prompt_tokens: int, num_beams: int, max_new_tokens: int
) -> None:
    probe = SequenceGroup(
        [make_sequence([7] * num_prompt_tokens, SamplingParams(max_new_tokens=max_new_tokens))],
        num_rows=num_beams,
    )
    max_blocks = probe.max_blocks(BLOCK_SIZE)
    scheduler = make_scheduler(num_blocks=max_blocks)
    add_beams(scheduler, [7] * num_prompt_tokens, num_beams, max_new_tokens=max_new_tokens)
    most = 0
    for _ in range(max_new_tokens):
        scheduler.record_computed(scheduler.schedule())
        most = max(most, num_held(scheduler))
        go_on(scheduler, scheduler.running[0])
    assert scheduler.num_preemptions == 0
    assert most == max_blocks or max_new_tokens == 1


def test_halves_never_part_the_beams_of_a_search() -> None:
    scheduler = make_scheduler()
    beams, other = add_beams(scheduler, [7] * 6, 3), add_beams(scheduler, [8] * 2, 1)
    run(scheduler)
    plan = scheduler.schedule()
    first, second = plan.halves()
    assert (first.groups, second.groups) == ([beams], [other])
    assert first.chunks + second.chunks == plan.chunks
    assert (len(first.block_copies), len(second.block_copies)) == (2, 0)
