"""Decides what the next step computes: who runs, how many tokens each, who must give way.

Plain Python; no tensors, no clock, no I/O. Order is priority, then arrival, and nobody overtakes:
the first in line always runs, so every sequence that fits alone ends, and nothing deadlocks.
"""

from bisect import insort
from operator import attrgetter

from worker.engine.block_manager import BlockManager
from worker.engine.config import EngineConfig
from worker.engine.plan import Chunk, StepPlan
from worker.engine.sequence import Sequence, SequenceStatus

_rank = attrgetter("rank")


class Scheduler:
    """Keeps `waiting` and `running`, both in rank order, and gives blocks to what runs."""

    def __init__(self, config: EngineConfig, block_manager: BlockManager) -> None:
        self._max_rows = config.max_rows
        self._max_step_tokens = config.max_step_tokens
        self._block_manager = block_manager
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_rank)

    def schedule(self) -> StepPlan:
        """Secure blocks for what runs, admit what fits, and share the step's token budget."""
        self._keep_running()
        self._admit()
        return self._share_budget()

    def update(self, plan: StepPlan) -> None:
        """Record that the plan's tokens now have keys and values."""
        for chunk in plan.chunks:
            chunk.sequence.num_computed_tokens = chunk.context_len

    def finish(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is; its blocks are free at once."""
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        elif sequence.status is SequenceStatus.WAITING:
            self.waiting.remove(sequence)
        self._block_manager.free(sequence)
        sequence.status = SequenceStatus.FINISHED

    def _keep_running(self) -> None:
        """Give each running sequence its slots, first in line first; the last in line pay."""
        position = 0
        while position < len(self.running):
            sequence = self.running[position]
            while not self._block_manager.can_allocate(sequence):
                self._preempt(self.running[-1])
                if sequence.status is SequenceStatus.WAITING:
                    return
            self._block_manager.allocate(sequence)
            position += 1

    def _preempt(self, sequence: Sequence) -> None:
        """Send a sequence back in line; it recomputes its tokens when it is admitted again."""
        self.running.remove(sequence)
        self._block_manager.free(sequence)
        sequence.status = SequenceStatus.WAITING
        insort(self.waiting, sequence, key=_rank)
        self.num_preemptions += 1

    def _admit(self) -> None:
        """Start waiting sequences, strictly in order, with slots for all the tokens they have.

        Slots for all its tokens are taken at once, so that prompts never starve each other half
        way; one block per running sequence stays free, or who enters would soon be sent back.
        """
        while self.waiting and len(self.running) < self._max_rows:
            sequence = self.waiting[0]
            if not self._block_manager.can_allocate(sequence, spare_blocks=len(self.running)):
                return
            self.waiting.pop(0)
            self._block_manager.allocate(sequence)
            sequence.status = SequenceStatus.RUNNING
            insort(self.running, sequence, key=_rank)

    def _share_budget(self) -> StepPlan:
        """One token for each sequence first, so that all keep streaming; the rest in order."""
        budget = self._max_step_tokens - len(self.running)
        chunks = []
        for sequence in self.running:
            extra = min(sequence.num_uncomputed_tokens - 1, budget)
            budget -= extra
            chunks.append(Chunk(sequence, sequence.num_computed_tokens, 1 + extra))
        return StepPlan(tuple(chunks))
