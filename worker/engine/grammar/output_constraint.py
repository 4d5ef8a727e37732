"""The grammar of one output: which tokens may follow what was generated.

Nothing but the generated tokens decides. A new constraint can therefore continue at any length,
after a preemption or on another worker.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

Mask = NDArray[np.int32]  # [words]: bit i of word w allows token 32 * w + i

# An ambiguous grammar makes each mask slower than the one before. A usual mask takes 0.3 ms.
MAX_CPU_S = 1.0  # that a request may spend on masks at once
TOKEN_CPU_S = 0.002  # that each token gives back

TOO_SLOW = (
    f"the masks of its grammar take more than {MAX_CPU_S:g} s of a CPU and "
    f"{1000 * TOKEN_CPU_S:g} ms per token; make the grammar less ambiguous"
)


class CpuBudget:
    """The CPU time that the masks of one request may still take; it never recovers once spent."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """Take a `clock` of the calling thread's CPU time, in seconds."""
        self.clock = clock
        self._left_s = MAX_CPU_S

    @property
    def is_spent(self) -> bool:
        return self._left_s <= 0

    def charge(self, seconds: float, num_tokens: int) -> None:
        """Subtract the time that was spent on `num_tokens` tokens."""
        refilled = min(MAX_CPU_S, self._left_s + num_tokens * TOKEN_CPU_S)
        self._left_s = refilled - seconds


class OutputConstraint:
    """The masks of one sequence, of its drafts, or of the beams of one search.

    Only one thread at a time may use it.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        num_tokens: int,
        end_id: int,
        eos_token_ids: Iterable[int],
        budget: CpuBudget,
    ) -> None:
        """Take a `matcher` at the start, whose masks have `end_id` where the output may end.

        There, and only there, each of `eos_token_ids` may follow. All constraints of a request
        share its `budget`.
        """
        self._budget = budget
        self._start = matcher  # only copied: an error stays with its matcher
        self._matcher = matcher.deep_copy()
        self._num_words = -(-num_tokens // 32)
        self._end_id = end_id
        self._eos_token_ids = [token_id for token_id in eos_token_ids if token_id < num_tokens]
        self._read: list[int] = []  # the tokens that the matcher has read
        self._prepared: dict[tuple[int, ...], Mask] = {}
        self._errors: dict[tuple[int, ...], str] = {}  # of the latest texts

    def failure(self, token_ids: list[int]) -> str | None:
        """Return why no token may follow this text of a computed mask: it exceeds a limit."""
        error = self._errors.get(tuple(token_ids))
        reason = TOO_SLOW if self._budget.is_spent else error
        return f"the text cannot follow its grammar: {reason}" if reason else None

    def prepare(self, outputs: Sequence[list[int]]) -> None:
        """Compute the masks that follow these generated tokens, for calls of `mask`."""
        self._errors = {}
        self._prepared = {tuple(token_ids): self._compute(token_ids) for token_ids in outputs}

    def mask(self, token_ids: list[int]) -> Mask:
        """Return the mask of what may follow; no token may follow an output outside the grammar."""
        prepared = self._prepared.get(tuple(token_ids))
        return self._compute(token_ids) if prepared is None else prepared

    def _compute(self, token_ids: list[int]) -> Mask:
        mask: Mask = np.zeros(self._num_words, np.int32)
        if self._budget.is_spent:
            return mask
        started = self._budget.clock()
        num_new = len(token_ids) - _num_common(self._read, token_ids)
        may_continue = self._seek(token_ids)
        if may_continue:
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._budget.charge(self._budget.clock() - started, num_new + 1)
        if self._matcher.is_error():
            self._errors[tuple(token_ids)] = self._matcher.get_error().partition("\n")[0]
            self._matcher, self._read = self._start.deep_copy(), []
            may_continue = False
        if not may_continue or self._budget.is_spent:
            return np.zeros_like(mask)
        words = mask.view(np.uint32)
        may_end = _has(words, self._end_id)
        _set(words, self._end_id, False)
        for token_id in self._eos_token_ids:
            _set(words, token_id, may_end)
        return mask

    def _seek(self, token_ids: list[int]) -> bool:
        """Make the matcher have read `token_ids`; return False if the grammar excludes them."""
        num_common = _num_common(self._read, token_ids)
        if num_common < len(self._read):
            self._matcher.rollback(len(self._read) - num_common)
        num_more = self._matcher.try_consume_tokens(token_ids[num_common:])
        self._read = token_ids[: num_common + num_more]
        return len(self._read) == len(token_ids)


def _num_common(first: list[int], second: list[int]) -> int:
    """Return the length of the common beginning."""
    if second[: len(first)] == first:
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _has(words: NDArray[np.uint32], token_id: int) -> bool:
    return bool(words[token_id // 32] >> np.uint32(token_id % 32) & np.uint32(1))


def _set(words: NDArray[np.uint32], token_id: int, value: bool) -> None:
    bit = np.uint32(1 << token_id % 32)
    if value:
        words[token_id // 32] |= bit
    else:
        words[token_id // 32] &= ~bit
