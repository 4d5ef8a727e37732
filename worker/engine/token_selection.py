"""Select how each group continues from a step's logits, and score the tokens of prompts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, islice

import torch

from worker.engine.beam.candidates import Candidates
from worker.engine.beam.output import BeamState
from worker.engine.execution.static_decoding import DecodedStep
from worker.engine.outputs import TokenOutput
from worker.engine.request_state import GroupState
from worker.engine.sampling.sampled_token import SampledToken, SamplingFailure, top_columns
from worker.engine.sampling.sampler import sample_tokens
from worker.engine.scheduling.sequence_group import SequenceGroup
from worker.engine.scheduling.step_plan import Chunk, StepPlan
from worker.engine.step_report import StepReport
from worker.engine.text.sequence_text import SequenceText

Sampled = SampledToken | SamplingFailure
# Of a sequence: its token; with drafts those accepted and the token after them, or a failure in its
# place. Of a beam search: its candidates. A failure alone: the group has no next token.
GroupSelection = SampledToken | tuple[Sampled, ...] | list[Candidates] | SamplingFailure


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to the calling thread.

    Sampling runs many operations of microseconds. Shared among threads, each would wait for
    milliseconds whenever another process has one of the cores.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _score_prompts(logits: torch.Tensor, plan: StepPlan) -> torch.Tensor:
    """Record the log-probabilities of prompts; return the logits that tokens are sampled from.

    `logits` float32 [n, vocab] has for each chunk `num_scored` rows, then `num_sampled`. A repeated
    step changes nothing: what is recorded already stays.
    """
    if not plan.scores_prompts:
        return logits
    sampled: list[int] = []
    row = 0
    for chunk in plan.chunks:
        end = row + chunk.num_scored
        if chunk.num_scored:
            _record_scores(chunk, logits[row:end])
        row = end + chunk.num_sampled
        sampled += range(end, row)
    return logits[torch.tensor(sampled, dtype=torch.int64, device=logits.device)]


def _record_scores(chunk: Chunk, logits: torch.Tensor) -> None:
    """Add the scores that rows of `logits` give to the tokens after the start of the chunk."""
    sequence = chunk.sequence
    scores, count = sequence.prompt_scores, sequence.params.prompt_logprobs
    assert scores is not None and count is not None
    num_known = max(0, len(scores.logprobs) - chunk.start)
    logprobs = logits[num_known:].log_softmax(dim=-1)
    first = chunk.start + num_known + 1
    token_ids = sequence.token_ids[first : first + len(logprobs)]
    index = torch.tensor(token_ids, dtype=torch.int64, device=logits.device)
    scores.logprobs += logprobs.gather(-1, index[:, None])[:, 0].tolist()
    scores.top_logprobs += top_columns(logprobs, count)


@torch.inference_mode()
@_one_thread()
def select_tokens(
    logits: torch.Tensor,
    plan: StepPlan,
    states: Mapping[SequenceGroup, GroupState],
    step: DecodedStep | None = None,
) -> list[GroupSelection]:
    """Select how each of `plan.sampled_groups` continues, from float32 `logits` [n, vocab].

    Of a chunk that scores its prompt, the first `num_scored` rows go to `prompt_scores`.

    A beam search gets candidates. All other groups get tokens from one call of the sampler, with a
    row for the sequence and one for each draft. The contents of `logits` are lost. In `step`, if it
    is given, the device has sampled already.
    """
    if step is not None:
        return [*step.tokens()]
    logits = _score_prompts(logits, plan)
    if not any(chunk.group.num_rows > 1 for chunk in plan.sampled_chunks):
        return [*_sampled(logits, plan.sampled_chunks)]
    return _select_with_searches(logits, plan, states)


def _select_with_searches(
    logits: torch.Tensor, plan: StepPlan, states: Mapping[SequenceGroup, GroupState]
) -> list[GroupSelection]:
    """Select as `select_tokens` does, for a plan with beam searches."""
    selections: dict[SequenceGroup, GroupSelection] = {}
    single: list[Chunk] = []
    rows: list[int] = []
    row = 0
    for group, chunks in groupby(plan.sampled_chunks, lambda chunk: chunk.group):
        members, state = list(chunks), states.get(group)
        end = row + sum(chunk.num_sampled for chunk in members)
        if isinstance(state, BeamState):
            selections[group] = state.propose(logits[row:end], group.sequences)
        else:
            single += members
            rows += range(row, end)
        row = end
    index = torch.tensor(rows, dtype=torch.int64, device=logits.device)
    sampled = _sampled(logits[index], single)
    selections.update(zip((chunk.group for chunk in single), sampled, strict=True))
    return [selections[group] for group in plan.sampled_groups]


def _sampled(logits: torch.Tensor, chunks: list[Chunk]) -> Sequence[Sampled | tuple[Sampled, ...]]:
    """Return what follows each chunk of a group of one, from the `logits` of just these chunks."""
    if not any(chunk.drafts for chunk in chunks):
        return sample_tokens(logits, [chunk.sequence for chunk in chunks])
    rows = iter(sample_tokens(logits, [s for chunk in chunks for s in chunk.sampled]))
    return [verify_drafts(tuple(islice(rows, chunk.num_sampled)), chunk.drafts) for chunk in chunks]


def verify_drafts(
    sampled: tuple[Sampled, ...], drafts: tuple[int, ...]
) -> tuple[Sampled, ...] | SamplingFailure:
    """Return what to keep of `sampled`, where item i follows the first i of `drafts`.

    A draft is accepted if it equals the token sampled in its place. The token after it is then the
    token that a step of the longer sequence would have sampled, in greedy mode and otherwise.
    """
    if isinstance(sampled[0], SamplingFailure):
        return sampled[0]
    for count, (token, draft) in enumerate(zip(sampled, drafts, strict=False), 1):
        if isinstance(token, SamplingFailure) or token.token_id != draft:
            return sampled[:count]
    return sampled


def to_outputs(
    chunk: Chunk, sampled: tuple[Sampled, ...], text: SequenceText, report: StepReport
) -> list[TokenOutput]:
    """Add tokens to `text` until the sequence ends or a token failed; return their outputs.

    Records before that how many drafts of the chunk were accepted.
    """
    _record_drafts(chunk, len(sampled) - 1, report)
    outputs: list[TokenOutput] = []
    for token in sampled:
        if isinstance(token, SamplingFailure):
            break
        outputs.append(text.push(token.token_id, token.logprob, token.top_logprobs))
        if text.finish_reason is not None:
            break
    return outputs


def _record_drafts(chunk: Chunk, num_accepted: int, report: StepReport) -> None:
    proposer, num_drafts = chunk.sequence.proposer, len(chunk.drafts)
    if proposer is not None and num_drafts:
        proposer.record(num_drafts, num_accepted, chunk.sequence.num_tokens + num_accepted + 1)
        report.num_drafts += num_drafts
        report.num_accepted_drafts += num_accepted
