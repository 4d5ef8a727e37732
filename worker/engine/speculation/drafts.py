"""Drafts of speculative decoding: their proposer, prompt lookup, and the draft budget of a step.

Prompt lookup decoding is by A. Saxena, 2023 (github.com/apoorvumang/prompt-lookup-decoding);
transformers calls it `prompt_lookup_num_tokens`.

A step of few tokens takes about as long as a step of one token, because reading the weights
dominates. So drafts fill a step up to `max_drafting_tokens`.
"""

from dataclasses import replace

from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.step_plan import Chunk, StepPlan

MAX_PAUSE = 32  # tokens between useless drafts in a text that never repeats itself


class PromptLookup:
    """Propose drafts for one list of tokens, less often the more drafts are rejected.

    After a draft of which no token is accepted it pauses for one token, then two, then four, until
    a token is accepted.
    """

    def __init__(self, num_tokens: int, max_ngram_size: int) -> None:
        self._num_tokens = num_tokens
        self._max_ngram_size = max_ngram_size
        self._continuations: dict[
            tuple[int, ...], int
        ] = {}  # where the last n-gram of its kind ends
        self._num_read = 1
        self._pause = 0
        self._resume_at = 0  # tokens

    @classmethod
    def of(cls, params: SamplingParams, default: int | None) -> "PromptLookup | None":
        """Return the proposer that the parameters, or else `default`, ask for.

        Beam searches get none: their beams are candidates enough.
        """
        num_tokens = params.prompt_lookup_num_tokens
        num_tokens = default if num_tokens is None else num_tokens
        if not num_tokens or params.num_beams > 1:
            return None
        return cls(num_tokens, params.max_matching_ngram_size)

    def is_ready(self, num_tokens: int) -> bool:
        """Return whether a sequence of `num_tokens` is past its pause."""
        return num_tokens >= self._resume_at

    def propose(self, token_ids: list[int], limit: int) -> list[int]:
        """Return up to `limit` tokens that followed when `token_ids` last ended as they do now.

        The longest n-gram that is found decides. If what followed reaches the end of the text, it
        repeats itself, like a copy in Lempel-Ziv compression (1977).
        """
        self._read(token_ids)
        start = self._find_continuation(token_ids)
        if start is None:
            return []
        period = len(token_ids) - start
        count = min(limit, self._num_tokens)
        return [token_ids[start + offset % period] for offset in range(count)]

    def record(self, num_accepted: int, num_tokens: int) -> None:
        """Record how many tokens of a draft were accepted; a full rejection starts a pause."""
        self._pause = 0 if num_accepted else min(max(1, 2 * self._pause), MAX_PAUSE)
        self._resume_at = num_tokens + self._pause

    def _read(self, token_ids: list[int]) -> None:
        """Index the tokens that were added since the last call."""
        for end in range(self._num_read, len(token_ids)):
            for size in range(1, min(self._max_ngram_size, end) + 1):
                self._continuations[tuple(token_ids[end - size : end])] = end
        self._num_read = len(token_ids)

    def _find_continuation(self, token_ids: list[int]) -> int | None:
        for size in range(min(self._max_ngram_size, len(token_ids)), 0, -1):
            start = self._continuations.get(tuple(token_ids[-size:]))
            if start is not None:
                return start
        return None


def add_drafts(plan: StepPlan, *, max_tokens: int, block_size: int) -> StepPlan:
    """Add drafts to a plan, up to `max_tokens` tokens in all.

    Each sequence that gets a token and is ready for drafts gets an equal share of the rest of
    the budget.
    """
    num_left = max_tokens - plan.num_tokens
    num_drafting = sum(_takes_drafts(chunk) for chunk in plan.chunks)
    if num_drafting == 0 or num_left <= 0:
        return plan
    chunks = []
    for chunk in plan.chunks:
        if _takes_drafts(chunk):
            chunk = _drafted(chunk, num_left // num_drafting, block_size)
            num_left -= len(chunk.drafts)
            num_drafting -= 1
        chunks.append(chunk)
    return StepPlan(tuple(chunks))


def _takes_drafts(chunk: Chunk) -> bool:
    proposer = chunk.sequence.proposer
    return proposer is not None and chunk.yields_token and proposer.is_ready(chunk.end)


def _drafted(chunk: Chunk, limit: int, block_size: int) -> Chunk:
    """Add up to `limit` drafts, as far as the blocks of the sequence reach.

    Drafts therefore never preempt a group or evict a block. The last token of a sequence is sampled
    and never computed, so drafts end before it.
    """
    sequence = chunk.sequence
    assert sequence.proposer is not None
    num_slots = len(sequence.block_table) * block_size - sequence.num_tokens
    num_wanted = sequence.max_length - 1 - sequence.num_tokens
    drafts = sequence.proposer.propose(sequence.token_ids, min(limit, num_slots, num_wanted))
    return replace(chunk, drafts=tuple(drafts), num_tokens=chunk.num_tokens + len(drafts))
