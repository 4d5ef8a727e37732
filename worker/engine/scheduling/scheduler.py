"""The scheduler: which groups run, how many tokens each computes, which one is preempted.

Plain Python: no tensors, clock or I/O. Groups are ordered by priority, then by arrival. Among equal
priorities no group overtakes another, so every group that fits alone ends and nothing deadlocks. A
lower priority waits while higher priorities fill the rows. Priority decides the order of admission
and, when blocks run out, of preemption. It takes no row from a running group.
A group of a batch pauses while others run, where it would make their steps too long.
"""

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from worker.engine.config import EngineConfig
from worker.engine.scheduling.batch_budget import BatchBudget, Work
from worker.engine.scheduling.block_manager import BlockManager
from worker.engine.scheduling.prefix_cache import BlockKey
from worker.engine.scheduling.prompt_budget import (
    PromptWork,
    prompt_cost_limit,
    share_among_prompts,
)
from worker.engine.scheduling.sequence_group import GroupStatus, SequenceGroup
from worker.engine.scheduling.step_plan import BlockCopy, Chunk, StepPlan
from worker.engine.sequence import Sequence

_rank = attrgetter("rank")


class Scheduler:
    """Keep the groups `waiting` and `running`, in rank order; give blocks to running groups.

    One round: `schedule`, compute the plan, `record_computed`; then each of the plan's
    `sampled_groups` gets its next tokens: a group of one by `append_tokens`, a beam search by
    `replace_sequences`. `finish_group` removes a group, also between rounds.
    """

    def __init__(self, config: EngineConfig, block_manager: BlockManager) -> None:
        self._max_rows = config.max_rows
        self._max_step_tokens = config.max_step_tokens
        self._max_chunk_tokens = config.max_chunk_tokens
        self._max_drafting_tokens = min(config.max_drafting_tokens, config.max_step_tokens)
        self.block_manager = block_manager
        self._batch_budget = BatchBudget(config.batch_share, config.max_chunk_tokens)
        self._block_copies: dict[Sequence, BlockCopy] = {}  # to be made before the next chunk
        self.waiting: list[SequenceGroup] = []
        self.running: list[SequenceGroup] = []
        self.num_preemptions = 0

    @property
    def groups(self) -> list[SequenceGroup]:
        """Return all groups, running before waiting."""
        return [*self.running, *self.waiting]

    @property
    def num_running_rows(self) -> int:
        """Return the rows that the running groups may take, with beams still to come."""
        return sum(group.num_rows for group in self.running)

    @property
    def num_waiting_rows(self) -> int:
        return sum(group.num_rows for group in self.waiting)

    def check_fits(self, group: SequenceGroup) -> None:
        """Raise ValueError, naming the limit, if even an idle engine could not run the group."""
        if group.num_rows > self._max_rows:
            raise ValueError(
                f"num_beams must be at most {self._max_rows}, the rows of a step, "
                f"not {group.num_rows}"
            )
        num_blocks, block_size = self.block_manager.num_blocks, self.block_manager.block_size
        if group.max_blocks(block_size) > num_blocks:
            sequences = "a sequence" if group.num_rows == 1 else f"{group.num_rows} sequences"
            # The last token of a sequence is never computed.
            raise ValueError(
                f"{sequences} of {group.sequences[0].max_length - 1} tokens cannot be held: "
                f"the KV cache has room for {num_blocks * block_size}"
            )

    def add_group(self, group: SequenceGroup) -> None:
        insort(self.waiting, group, key=_rank)

    def schedule(self) -> StepPlan:
        """Allocate blocks to running groups, admit what fits, and share the token budget."""
        self._allocate_running()
        self._admit()
        work = list(self._next_work())
        batch_work = [] if not work or work[0].group.gives_way else self._batch_work(work)
        plan = self._share_budget(work[: len(work) - len(batch_work)]).with_drafts(
            max_tokens=self._max_drafting_tokens, block_size=self.block_manager.block_size
        )
        return self._join(plan, batch_work) if batch_work else plan

    def record_computed(self, plan: StepPlan) -> None:
        """Record that the tokens of a plan are in the KV cache; its drafts do not count."""
        for chunk in plan.chunks:
            chunk.sequence.num_computed_tokens = chunk.end
            self.block_manager.cache_full_blocks(chunk.sequence)

    def append_tokens(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Append accepted drafts, if any, and the token after them, which is not computed yet.

        Call it after `record_computed`.
        """
        for token_id in token_ids:
            sequence.append(token_id)
        if len(token_ids) > 1:  # accepted drafts, which this step has computed
            sequence.num_computed_tokens = sequence.num_tokens - 1
            self.block_manager.cache_full_blocks(sequence)
            sequence.mark_cached_valid()

    def replace_sequences(
        self, group: SequenceGroup, successors: list[tuple[Sequence, int]]
    ) -> list[Sequence]:
        """Continue a beam search with successors, each (a sequence of the group, its next token).

        Call it after `record_computed` for a group among the plan's `sampled_groups`, with at most
        `num_rows` successors; a sequence may have several or none. Returns the new sequences of the
        group, in that order, with their places as `index`. They share their parents' blocks;
        nothing is copied but a last block that is not full.
        """
        children = [parent.child(index, token) for index, (parent, token) in enumerate(successors)]
        for (parent, _), child in zip(successors, children, strict=True):
            self.block_manager.fork(parent, child)
        self._free(group)
        group.sequences = children
        return children

    def finish_group(self, group: SequenceGroup) -> None:
        """Remove a group, running or waiting, and free its blocks."""
        if group.status is GroupStatus.RUNNING:
            self.running.remove(group)
        elif group.status is GroupStatus.WAITING:
            self.waiting.remove(group)
        self._free(group)
        group.status = GroupStatus.FINISHED

    def preempt(self, group: SequenceGroup) -> None:
        """Free the blocks of a running group and return it to the waiting groups."""
        self.running.remove(group)
        self._free(group)
        group.status = GroupStatus.WAITING
        insort(self.waiting, group, key=_rank)
        self.num_preemptions += 1

    def _allocate_running(self) -> None:
        """Allocate slots to running groups in order; preempt the last if blocks run out."""
        for group in tuple(self.running):
            if group.status is GroupStatus.RUNNING:
                self._allocate(group)

    def _allocate(self, group: SequenceGroup) -> None:
        """Allocate slots for all that the group computes next, or preempt it.

        A sequence that has to catch up gets slots alone; the beams after it follow in later steps.
        """
        for sequence in group.sequences:
            if not self.block_manager.is_allocated(sequence):
                while not self.block_manager.can_allocate(sequence):
                    last = self.running[-1]
                    self.preempt(last)
                    if last is group:
                        return
                if block_copy := self.block_manager.allocate(sequence):
                    self._block_copies[sequence] = block_copy
            if group.num_rows > 1 and sequence.num_uncomputed_tokens > 1:
                return

    def _free(self, group: SequenceGroup) -> None:
        for sequence in group.sequences:
            self._block_copies.pop(sequence, None)
            self.block_manager.free(sequence)

    def _admit(self) -> None:
        """Start waiting groups, strictly in order, while rows and blocks are left."""
        if not self.waiting:
            return
        num_rows = self.num_running_rows
        while self.waiting and num_rows + self.waiting[0].num_rows <= self._max_rows:
            group = self.waiting[0]
            if not self._can_start(group, num_rows):
                return
            self.waiting.pop(0)
            group.status = GroupStatus.RUNNING
            insort(self.running, group, key=_rank)
            self._allocate(group)
            num_rows += group.num_rows

    def _can_start(self, group: SequenceGroup, num_running_rows: int) -> bool:
        """Return whether blocks for all tokens of the group are free.

        A prompt gets all its slots at once, so that prompts never starve each other half way. One
        block per running row must stay free, or the group would soon be preempted.
        """
        first, *others = group.sequences
        block_size = self.block_manager.block_size
        num_shared = first.num_prompt_tokens // block_size
        num_own = sum(self.block_manager.num_blocks_for(s.num_tokens) - num_shared for s in others)
        return self.block_manager.can_allocate(first, spare_blocks=num_running_rows + num_own)

    def _next_work(self) -> Iterator[Work]:
        """Yield the sequences that compute in this step, each with the most tokens it may.

        If several sequences would fill a block with the same tokens, only the first computes it.
        The others wait and find it in the cache; the first gets tokens in every step.
        """
        pending: set[BlockKey] = set()
        for group in self.running:
            for sequence, num_wanted in group.next_work():
                key = self.block_manager.next_shareable(sequence)
                if key is None or key not in pending:
                    yield Work(group, sequence, num_wanted)
                if key is not None:
                    pending.add(key)

    def _batch_work(self, work: list[Work]) -> list[Work]:
        """Return the work of batches, which comes last."""
        return [one for one in work if one.group.gives_way] if work[-1].group.gives_way else []

    def _join(self, plan: StepPlan, batch_work: list[Work]) -> StepPlan:
        """Return the plan with as much of the batches' work as may join others, without drafts."""
        by_group = [list(one) for _, one in groupby(batch_work, key=attrgetter("group"))]
        max_tokens = self._max_step_tokens - plan.num_tokens
        chosen = self._batch_budget.choose(plan, by_group, max_tokens=max_tokens)
        chunks = (replace(self._chunk(one), num_tokens=one.num_wanted) for one in chosen)
        return StepPlan((*plan.chunks, *chunks))

    def _chunk(self, work: Work) -> Chunk:
        """Return a chunk of one token, with the copy of a block that it needs."""
        block_copy = self._block_copies.pop(work.sequence, None)
        return Chunk(work.group, work.sequence, work.sequence.num_computed_tokens, 1, block_copy)

    def _share_budget(self, work: Iterable[Work]) -> StepPlan:
        """Give one token to each sequence, so that all keep streaming; share the rest in order."""
        chunks: list[Chunk] = []
        prompts: dict[int, PromptWork] = {}  # by index of the chunk
        for one in work:
            if one.num_wanted > 1:
                computed = one.sequence.num_computed_tokens
                prompts[len(chunks)] = PromptWork(computed, one.num_wanted)
            chunks.append(self._chunk(one))
        if prompts:
            for index, num_tokens in self._sizes_of(prompts, len(chunks) - len(prompts)):
                chunks[index] = replace(chunks[index], num_tokens=num_tokens)
        return StepPlan(tuple(chunks))

    def _sizes_of(
        self, prompts: dict[int, PromptWork], num_decoding: int
    ) -> Iterator[tuple[int, int]]:
        """Return index and tokens of each prompt; they share what `num_decoding` rows leave."""
        max_cost = prompt_cost_limit(
            num_decoding=num_decoding,
            num_prompts=len(prompts),
            max_chunk_tokens=self._max_chunk_tokens,
        )
        max_tokens = self._max_step_tokens - num_decoding
        work = list(prompts.values())
        sizes = share_among_prompts(work, max_tokens=max_tokens, max_cost=max_cost)
        return zip(prompts, sizes, strict=True)
