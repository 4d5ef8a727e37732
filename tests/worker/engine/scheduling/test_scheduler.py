"""The scheduler and its block manager alone: admission, token budget, preemption."""

from dataclasses import fields

import pytest

from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.config import EngineConfig
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.scheduler import Scheduler
from worker.engine.scheduling.sequence_group import GroupStatus, SequenceGroup
from worker.engine.scheduling.step_plan import StepPlan

BLOCK_SIZE = 4


def make_scheduler(
    *,
    max_rows: int = 4,
    num_blocks: int = 100,
    max_step_tokens: int = 8,
    max_chunk_tokens: int = 8,
) -> Scheduler:
    config = EngineConfig(
        max_rows=max_rows,
        block_size=BLOCK_SIZE,
        max_step_tokens=max_step_tokens,
        max_chunk_tokens=max_chunk_tokens,
    )
    return Scheduler(config, BlockManager(num_blocks, BLOCK_SIZE))


def add(scheduler: Scheduler, *prompt_lengths: int, priority: int = 0) -> list[SequenceGroup]:
    """Add groups of a single sequence after all others, without a common prefix."""
    first = len(scheduler.waiting) + len(scheduler.running)
    groups = [
        SequenceGroup([make_sequence([arrival] * length, arrival=arrival, priority=priority)])
        for arrival, length in enumerate(prompt_lengths, start=first)
    ]
    for group in groups:
        scheduler.add_group(group)
    return groups


def run(scheduler: Scheduler) -> StepPlan:
    """One step in which every sequence that can gets a token."""
    plan = scheduler.schedule()
    sampled = plan.sampled
    scheduler.record_computed(plan)
    for sequence in sampled:
        sequence.append(sequence.arrival)
    return plan


def shares(plan: StepPlan) -> list[tuple[int, int]]:
    """(arrival, tokens) of each chunk."""
    return [(chunk.sequence.arrival, chunk.num_tokens) for chunk in plan.chunks]


def test_an_idle_scheduler_plans_nothing() -> None:
    assert not make_scheduler().schedule()


def test_a_long_prompt_comes_in_chunks_and_yields_a_token_with_the_last() -> None:
    scheduler = make_scheduler(max_step_tokens=8)
    [group] = add(scheduler, 20)
    [sequence] = group.sequences
    steps = [(shares(run(scheduler)), sequence.num_generated_tokens) for _ in range(4)]
    assert steps == [([(0, 8)], 0), ([(0, 8)], 0), ([(0, 4)], 1), ([(0, 1)], 2)]


def test_running_sequences_keep_streaming_while_a_long_prompt_is_computed() -> None:
    scheduler = make_scheduler(max_step_tokens=8)
    add(scheduler, 2)
    run(scheduler)
    add(scheduler, 30)
    assert shares(run(scheduler)) == [(0, 1), (1, 7)]


def test_a_long_prompt_does_not_stall_later_requests() -> None:
    scheduler = make_scheduler(max_step_tokens=8)
    add(scheduler, 30, 2)
    assert shares(run(scheduler)) == [(0, 7), (1, 1)]
    assert shares(run(scheduler)) == [(0, 7), (1, 1)]


def test_no_step_exceeds_its_token_budget_or_its_rows() -> None:
    scheduler = make_scheduler(max_rows=3, max_step_tokens=5)
    add(scheduler, 9, 1, 4, 2, 2)
    for _ in range(6):
        plan = run(scheduler)
        assert plan.num_tokens <= 5
        assert len(plan.chunks) <= 3


def test_higher_priority_goes_first_and_equals_in_order_of_arrival() -> None:
    scheduler = make_scheduler(max_rows=2)
    add(scheduler, 1, 1)
    add(scheduler, 1, 1, priority=5)
    assert [arrival for arrival, _ in shares(scheduler.schedule())] == [2, 3]


def test_no_group_overtakes_the_first_waiting_one() -> None:
    scheduler = make_scheduler(num_blocks=4)
    add(scheduler, 8)
    run(scheduler)
    add(scheduler, 12, 1)
    assert shares(run(scheduler)) == [(0, 1)]


def test_the_last_arrival_is_preempted_when_blocks_run_out_and_runs_again() -> None:
    scheduler = make_scheduler(num_blocks=4, max_step_tokens=16)
    old, young = add(scheduler, 4, 3)
    run(scheduler)
    while young.status is GroupStatus.RUNNING:
        run(scheduler)
    assert old.status is GroupStatus.RUNNING
    [sequence] = young.sequences
    assert (list(sequence.block_table), sequence.num_computed_tokens) == ([], 0)
    assert scheduler.num_preemptions == 1
    scheduler.finish_group(old)
    assert [arrival for arrival, _ in shares(run(scheduler))] == [1]


def test_admission_leaves_a_spare_block_for_each_running_row() -> None:
    scheduler = make_scheduler(num_blocks=4)
    add(scheduler, 4, 4, 4)
    assert len(run(scheduler).chunks) == 2


def test_low_priority_is_preempted_before_later_arrivals() -> None:
    scheduler = make_scheduler(num_blocks=4, max_step_tokens=16)
    [low] = add(scheduler, 3, priority=-1)
    run(scheduler)
    [high] = add(scheduler, 4)
    for _ in range(9):
        run(scheduler)
    assert (low.status, high.status) == (GroupStatus.WAITING, GroupStatus.RUNNING)


def test_a_sequence_that_fills_the_whole_cache_runs_alone_to_its_end() -> None:
    scheduler = make_scheduler(num_blocks=4)
    [group] = add(scheduler, 10)
    [sequence] = group.sequences
    while sequence.num_tokens <= 4 * BLOCK_SIZE:
        assert run(scheduler)
    assert scheduler.num_preemptions == 0


def test_finishing_frees_the_blocks_of_running_and_waiting_alike() -> None:
    scheduler = make_scheduler(max_rows=1)
    running, waiting = add(scheduler, 5, 5)
    run(scheduler)
    scheduler.finish_group(running)
    scheduler.finish_group(waiting)
    assert not scheduler.schedule()
    assert not any(s.block_table for group in (running, waiting) for s in group.sequences)


def add_equals(scheduler: Scheduler, prompt: list[int], count: int) -> list[SequenceGroup]:
    groups = [SequenceGroup([make_sequence(prompt, arrival=n)]) for n in range(count)]
    for group in groups:
        scheduler.add_group(group)
    return groups


def test_a_common_prefix_is_computed_once() -> None:
    scheduler = make_scheduler(max_rows=8, max_step_tokens=16, max_chunk_tokens=16)
    add_equals(scheduler, [1] * 22, 8)
    plans = [run(scheduler) for _ in range(4)]
    assert [shares(plan) for plan in plans[:2]] == [[(0, 16)], [(0, 6)]]
    assert shares(plans[2]) == [(0, 1), *[(arrival, 2) for arrival in range(1, 8)]]
    assert shares(plans[3]) == [(arrival, 1) for arrival in range(8)]


def test_a_sequence_that_waits_for_a_prefix_computes_it_when_its_owner_has_ended() -> None:
    scheduler = make_scheduler()
    first, _ = add_equals(scheduler, [1] * 22, 2)
    assert shares(run(scheduler)) == [(0, 8)]
    scheduler.finish_group(first)
    assert shares(run(scheduler)) == [(1, 8)]


def test_a_sequence_that_waits_for_a_prefix_delays_no_other() -> None:
    scheduler = make_scheduler(max_step_tokens=16)
    add_equals(scheduler, [1] * 22, 2)
    add(scheduler, 1)
    assert [shares(run(scheduler)) for _ in range(4)] == [
        [(0, 8), (2, 1)],
        [(0, 7), (2, 1)],
        [(0, 7), (2, 1)],
        [(0, 1), (1, 2), (2, 1)],
    ]


def test_prompts_get_all_tokens_of_a_step_when_no_sequence_decodes() -> None:
    scheduler = make_scheduler(max_step_tokens=20, max_chunk_tokens=6)
    add(scheduler, 30, 30)
    assert shares(run(scheduler)) == [(0, 19), (1, 1)]


def test_a_prompt_gets_a_small_chunk_while_others_decode() -> None:
    scheduler = make_scheduler(max_step_tokens=20, max_chunk_tokens=6)
    add(scheduler, 1)
    run(scheduler)
    add(scheduler, 8)
    assert shares(run(scheduler)) == [(0, 1), (1, 6)]
    assert shares(run(scheduler)) == [(0, 1), (1, 2)]


def test_a_chunk_grows_with_the_sequences_that_decode() -> None:
    scheduler = make_scheduler(max_step_tokens=20, max_chunk_tokens=6)
    add(scheduler, 1, 1, 1)
    run(scheduler)
    add(scheduler, 30)
    assert shares(run(scheduler)) == [(0, 1), (1, 1), (2, 1), (3, 8)]


def test_chunks_shrink_as_the_context_grows_that_they_attend_to() -> None:
    scheduler = make_scheduler(num_blocks=1000, max_step_tokens=2000, max_chunk_tokens=40)
    add(scheduler, 1024)
    run(scheduler)
    [prompt] = add(scheduler, 1500)
    sizes: dict[int, int] = {}
    while prompt.sequences[0].num_generated_tokens == 0:
        start = prompt.sequences[0].num_computed_tokens
        sizes[start] = dict(shares(run(scheduler)))[1]
    assert sizes[0] == 40
    assert list(sizes.values())[:-1] == sorted(list(sizes.values())[:-1], reverse=True)
    assert 19 <= min(size for start, size in sizes.items() if start <= 1024) <= 21


def test_the_chunks_of_many_prompts_together_stay_within_the_step() -> None:
    scheduler = make_scheduler(max_rows=8, max_step_tokens=16, max_chunk_tokens=10)
    add(scheduler, 1)
    run(scheduler)
    add(scheduler, *[30] * 6)
    plan = run(scheduler)
    assert plan.num_tokens == 16
    assert len(plan.chunks) == 7


def test_a_step_budget_below_the_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_step_tokens \(4\) must not be below max_rows \(5\)"):
        EngineConfig(max_rows=5, max_step_tokens=4)


@pytest.mark.parametrize(
    "name",
    [field.name for field in fields(EngineConfig) if field.type in (int, int | None)],
)
def test_a_limit_below_one_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        EngineConfig(**{name: 0})
