"""Decides what the next step computes: who runs, how many tokens each, who must give way.

Plain Python; no tensors, no clock, no I/O. Order is priority, then arrival. Among equals nobody
overtakes: each that fits alone ends, and nothing deadlocks. A lower priority waits for as long as
higher ones fill the rows. Priority orders who enters, and who goes back when blocks run out; it
takes no row from a group that runs.
"""

import math
from bisect import insort
from collections.abc import Iterator
from operator import attrgetter

from worker.engine.config import EngineConfig
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.prefix_cache import BlockKey
from worker.engine.scheduling.step_plan import BlockCopy, Chunk, StepPlan
from worker.engine.sequence import Sequence
from worker.engine.sequence_group import GroupStatus, SequenceGroup
from worker.engine.speculation.draft_budget import with_drafts

# Tokens; attending to them takes a prompt's token about as long as all else it needs.
_HALVING_CONTEXT = 1024

_rank = attrgetter("rank")


class Scheduler:
    """Keeps the groups `waiting` and `running`, both in rank order, and gives blocks to what runs.

    One round: `schedule`, compute the plan, `update`; then each of the plan's `sampled_groups`
    gets its next tokens: a group of one by `extend`, a beam search by `replace`. Or it leaves by
    `finish`, as any group may between rounds.
    """

    def __init__(self, config: EngineConfig, block_manager: BlockManager) -> None:
        self._max_rows = config.max_rows
        self._max_step_tokens = config.max_step_tokens
        self._max_chunk_tokens = config.max_chunk_tokens
        self._max_drafting_tokens = min(config.max_drafting_tokens, config.max_step_tokens)
        self._block_manager = block_manager
        self._block_copies: dict[Sequence, BlockCopy | None] = {}  # that the next step needs
        self.waiting: list[SequenceGroup] = []
        self.running: list[SequenceGroup] = []
        self.num_preemptions = 0

    @property
    def num_running_rows(self) -> int:
        """Rows that the running groups may take, beams that are still to come included."""
        return sum(group.num_rows for group in self.running)

    @property
    def num_waiting_rows(self) -> int:
        return sum(group.num_rows for group in self.waiting)

    def add(self, group: SequenceGroup) -> None:
        insort(self.waiting, group, key=_rank)

    def schedule(self) -> StepPlan:
        """Secure blocks for what runs, admit what fits, and share the step's token budget."""
        self._block_copies.clear()
        self._keep_running()
        self._admit()
        return with_drafts(
            self._share_budget(),
            max_tokens=self._max_drafting_tokens,
            block_size=self._block_manager.block_size,
        )

    def update(self, plan: StepPlan) -> None:
        """Record that the plan's tokens now have keys and values; nothing of its drafts."""
        for chunk in plan.chunks:
            chunk.sequence.num_computed_tokens = chunk.end
            self._block_manager.file_computed(chunk.sequence)

    def extend(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Let a sequence go on with accepted drafts, if any, and a token that nobody computed yet.

        Call it after `update`.
        """
        for token_id in token_ids:
            sequence.append(token_id)
        sequence.num_computed_tokens = sequence.num_tokens - 1
        self._block_manager.file_computed(sequence)
        sequence.vouch()

    def replace(self, group: SequenceGroup, children: list[tuple[Sequence, int]]) -> list[Sequence]:
        """Let a beam search go on with other sequences: child i is (a sequence, its next token).

        Call it after `update` for a group among the plan's `sampled_groups`, with at most
        `num_rows` children of its present sequences; a parent may have several or none. The
        children, in order and with `index` i, become the group's sequences and are returned. They
        share their parents' blocks; nothing is copied but a last block that is not full.
        """
        heirs = [parent.child(index, token) for index, (parent, token) in enumerate(children)]
        for (parent, _), heir in zip(children, heirs, strict=True):
            self._block_manager.fork(parent, heir)
        self._free(group)
        group.sequences = heirs
        return heirs

    def finish(self, group: SequenceGroup) -> None:
        """Forget a group, wherever it is; its blocks are free at once."""
        if group.status is GroupStatus.RUNNING:
            self.running.remove(group)
        elif group.status is GroupStatus.WAITING:
            self.waiting.remove(group)
        self._free(group)
        group.status = GroupStatus.FINISHED

    def _keep_running(self) -> None:
        """Give each running group its slots, first in line first; the last in line pay."""
        for group in tuple(self.running):
            if group.status is GroupStatus.RUNNING:
                self._secure(group)

    def _secure(self, group: SequenceGroup) -> None:
        """Slots for all that the group computes next, or it goes back in line.

        Who is behind catches up first; the beams after it get their slots in their turn.
        """
        for sequence in group.sequences:
            while not self._block_manager.can_allocate(sequence):
                last = self.running[-1]
                self._preempt(last)
                if last is group:
                    return
            self._block_copies[sequence] = self._block_manager.allocate(sequence)
            if sequence.num_uncomputed_tokens > 1:
                return

    def _preempt(self, group: SequenceGroup) -> None:
        """Send a group back in line; what the cache loses is computed again when it returns."""
        self.running.remove(group)
        self._free(group)
        group.status = GroupStatus.WAITING
        insort(self.waiting, group, key=_rank)
        self.num_preemptions += 1

    def _free(self, group: SequenceGroup) -> None:
        for sequence in group.sequences:
            self._block_manager.free(sequence)

    def _admit(self) -> None:
        """Start waiting groups, strictly in order, as long as rows and blocks are left."""
        num_rows = self.num_running_rows
        while self.waiting and num_rows + self.waiting[0].num_rows <= self._max_rows:
            group = self.waiting[0]
            if not self._can_start(group, num_rows):
                return
            self.waiting.pop(0)
            group.status = GroupStatus.RUNNING
            insort(self.running, group, key=_rank)
            self._secure(group)
            num_rows += group.num_rows

    def _can_start(self, group: SequenceGroup, num_running_rows: int) -> bool:
        """Whether there is room for all its tokens.

        Slots for all tokens are taken at once, so that prompts never starve each other half way;
        one block per running row stays free, or who enters would soon be sent back.
        """
        first, *others = group.sequences
        block_size = self._block_manager.block_size
        num_shared = first.num_prompt_tokens // block_size
        num_own = sum(self._block_manager.num_blocks_for(s.num_tokens) - num_shared for s in others)
        return self._block_manager.can_allocate(first, spare_blocks=num_running_rows + num_own)

    def _due(self) -> Iterator[tuple[SequenceGroup, Sequence, int]]:
        """Who computes in this step, and at most how many tokens.

        Of those whose next block will hold the same, the first in line computes it; the others
        wait, and find it in the cache. That one gets on in every step, so it is no long wait.
        """
        coming: set[BlockKey] = set()
        for group in self.running:
            for sequence, num_due in group.due():
                key = self._block_manager.next_shareable(sequence)
                if key is None or key not in coming:
                    yield group, sequence, num_due
                if key is not None:
                    coming.add(key)

    def _share_budget(self) -> StepPlan:
        """One token for whoever computes, so that all keep streaming; the rest in order."""
        due = list(self._due())
        budget = self._max_step_tokens - len(due)
        is_awaited = any(num_due == 1 for _, _, num_due in due)
        chunks = []
        for group, sequence, num_due in due:
            limit = self._chunk_limit(sequence) if is_awaited else num_due
            extra = min(num_due - 1, limit - 1, budget)
            budget -= extra
            block_copy = self._block_copies[sequence]
            start = sequence.num_computed_tokens
            chunks.append(Chunk(group, sequence, start, 1 + extra, block_copy))
        return StepPlan(tuple(chunks))

    def _chunk_limit(self, sequence: Sequence) -> int:
        """Tokens of a prompt that others wait for: fewer, the more there is to attend to."""
        growth = 1 + sequence.num_computed_tokens / _HALVING_CONTEXT
        return math.ceil(self._max_chunk_tokens / growth)
