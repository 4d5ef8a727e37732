"""Random searches among plain sequences, over a strict fake model, with hardly enough blocks.

Searches drop, fork and permute their beams at random; preempted beams catch up. Every step reads
the right keys and values, a search gets its tokens all at once, and no group starves.
"""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import FakeRunner
from tests.worker.engine.sampling.rows import make_sequence
from worker.engine.config import EngineConfig
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.scheduler import Scheduler
from worker.engine.scheduling.sequence_group import SequenceGroup

BLOCK_SIZE = 4
MAX_ROWS = 12


@st.composite
def searches(draw: st.DrawFn) -> list[SequenceGroup]:
    """Prompts of few letters, so that many have a beginning in common."""
    groups = []
    for arrival in range(draw(st.integers(1, 6))):
        prompt = draw(st.lists(st.sampled_from([1, 1, 1, 2]), min_size=1, max_size=14))
        params = SamplingParams(
            max_new_tokens=draw(st.integers(1, 9)), remove_invalid_values=draw(st.booleans())
        )
        priority = draw(st.integers(-1, 1))
        sequence = make_sequence(prompt, params, arrival=arrival, priority=priority)
        groups.append(SequenceGroup([sequence], num_rows=draw(st.integers(1, 4))))
    return groups


class Driver:
    """Plays searches against a scheduler and checks every step."""

    def __init__(self, groups: list[SequenceGroup], *, spare_blocks: int, seed: int) -> None:
        num_blocks = max(group.max_blocks(BLOCK_SIZE) for group in groups) + spare_blocks
        config = EngineConfig(
            max_rows=MAX_ROWS, block_size=BLOCK_SIZE, max_step_tokens=16, max_chunk_tokens=6
        )
        self.random = Random(seed)
        self.manager = BlockManager(num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(config, self.manager)
        self.runner = FakeRunner(num_blocks=num_blocks, block_size=BLOCK_SIZE)

    def run(self, groups: list[SequenceGroup], *, every: int) -> None:
        """Add a group every few steps, and continue until all have ended."""
        for group in groups:
            self.scheduler.add_group(group)
            for _ in range(every):
                self.step()
        # The first in line computes something in every step: no run can be longer than this.
        num_steps = sum(group.num_rows * group.sequences[0].max_length for group in groups)
        for _ in range(num_steps):
            self.step()
        assert not self.scheduler.running + self.scheduler.waiting, "a group starves"
        assert self.manager.num_free_blocks == self.manager.num_blocks

    def step(self) -> None:
        plan = self.scheduler.schedule()
        if not plan:
            assert not self.scheduler.waiting, "no group runs, but one waits"
            return
        self.check()
        assert plan.chunks[0].group is self.scheduler.running[0], "the first in line stands still"
        self.runner.forward(plan)
        self.scheduler.record_computed(plan)
        sampled = [sequence for group in plan.sampled_groups for sequence in group.sequences]
        assert plan.sampled == sampled, "a search got some of its tokens"
        assert len(plan.chunks) <= MAX_ROWS
        assert plan.num_tokens <= 16
        for group in plan.sampled_groups:
            self.go_on(group)
        self.check()

    def go_on(self, group: SequenceGroup) -> None:
        first = group.sequences[0]
        if first.num_tokens + 1 >= first.max_length:
            self.scheduler.finish_group(group)
        elif group.num_rows == 1:
            first.append(self.random.randint(1, 2))
        else:
            parents = self.random.choices(group.sequences, k=self.random.randint(1, group.num_rows))
            children = [(parent, self.random.randint(1, 2)) for parent in parents]
            self.scheduler.replace_sequences(group, children)

    def check(self) -> None:
        running = self.scheduler.running
        self.manager.check_integrity(s for group in running for s in group.sequences)


@settings(max_examples=300)
@given(searches(), st.integers(0, 6), st.integers(0, 3), st.integers(0, 2**32))
def test_searches_and_plain_sequences_all_read_what_they_wrote_and_end(
    groups: list[SequenceGroup], spare_blocks: int, every: int, seed: int
) -> None:
    Driver(groups, spare_blocks=spare_blocks, seed=seed).run(groups, every=every)


def test_beam_searches_that_preempt_each_other_all_end() -> None:
    """One long run with many preemptions, so that catching up is not left to chance."""
    random = Random(0)
    groups = [
        SequenceGroup(
            [
                make_sequence(
                    random.choices((1, 2), (9, 1), k=random.randint(1, 6)),
                    SamplingParams(max_new_tokens=random.randint(20, 30)),
                    arrival=arrival,
                    priority=random.randint(-1, 1),
                )
            ],
            num_rows=random.randint(1, 3),
        )
        for arrival in range(200)
    ]
    driver = Driver(groups, spare_blocks=2, seed=0)
    driver.run(groups, every=1)
    assert driver.scheduler.num_preemptions > 50
    assert driver.manager.num_prefix_hit_tokens > 500
