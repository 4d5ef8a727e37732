"""Where a step has room for drafts, and who gets it: speculative decoding only where it pays.

Plain Python; knows no model. A step of few tokens takes about as long as one of a single token,
for it is the weights that it waits for: so drafts fill a step up to `max_drafting_tokens`.
"""

from dataclasses import replace

from worker.engine.scheduling.step_plan import Chunk, StepPlan


def with_drafts(plan: StepPlan, *, max_tokens: int, block_size: int) -> StepPlan:
    """The plan with drafts for the sequences that get a token from it, `max_tokens` tokens in all.

    Whoever is ready to guess gets an equal share of the room, and of what those before it left.
    """
    num_left = max_tokens - plan.num_tokens
    num_drafting = sum(_may_draft(chunk) for chunk in plan.chunks)
    if num_drafting == 0 or num_left <= 0:
        return plan
    chunks = []
    for chunk in plan.chunks:
        if _may_draft(chunk):
            chunk = _with_drafts(chunk, num_left // num_drafting, block_size)
            num_left -= len(chunk.drafts)
            num_drafting -= 1
        chunks.append(chunk)
    return StepPlan(tuple(chunks))


def _may_draft(chunk: Chunk) -> bool:
    lookup = chunk.sequence.lookup
    return lookup is not None and chunk.yields_token and lookup.is_ready(chunk.end)


def _with_drafts(chunk: Chunk, limit: int, block_size: int) -> Chunk:
    """Up to `limit` drafts, as far as the blocks go that the sequence has.

    So nobody is sent back, and nothing is evicted, for what is only a guess. The last token of a
    sequence is chosen and never computed, so no draft is to come as far as that.
    """
    sequence = chunk.sequence
    assert sequence.lookup is not None
    num_slots = len(sequence.block_table) * block_size - sequence.num_tokens
    num_wanted = sequence.max_length - 1 - sequence.num_tokens
    drafts = sequence.lookup.propose(sequence.token_ids, min(limit, num_slots, num_wanted))
    return replace(chunk, drafts=tuple(drafts), num_tokens=chunk.num_tokens + len(drafts))
