"""The candidates of one step of a beam search: the best or the sampled continuations.

Computed in float32, in the order of `_beam_search` in transformers: same roundings, same ties.
"""

from dataclasses import dataclass

import torch

from worker.engine.beam.hypothesis import Beam, BeamToken, Successor
from worker.engine.sampling.multinomial import multinomial_tiled
from worker.engine.sampling.philox import uniforms
from worker.engine.sampling.sampled_token import top_columns
from worker.engine.sampling.sorting import below, indices_of
from worker.engine.sampling_params import SamplingParams

LOSING_SCORE = -1.0e9  # transformers' score of a beam that must not win


@dataclass(frozen=True, slots=True)
class Candidates:
    """The beams of the step with one more token each."""

    scores: torch.Tensor  # sums of log-probabilities, float32 [k] on the CPU; best first or sampled
    parents: list[int]  # the row of the step that each beam continues
    beams: list[Beam]

    def successors(self, ranks: list[int]) -> list[Successor]:
        """Return the rows of the next step if the candidates at `ranks` continue."""
        return [Successor(self.parents[r], self.beams[r].tokens[-1].token_id) for r in ranks]


def first_scores(num_beams: int) -> torch.Tensor:
    """Return scores float32 [num_beams] by which only the first of equal beams can win."""
    scores = torch.full((num_beams,), LOSING_SCORE)
    scores[0] = 0.0
    return scores


def expand_beams(
    beams: list[Beam],
    beam_scores: torch.Tensor,
    scores: torch.Tensor,
    params: SamplingParams,
    first_row: int = 0,
) -> Candidates:
    """Return candidates that follow `beams`, by the processed `scores` [n, vocab] of their rows.

    The rows of the step begin at `first_row`. `beam_scores` float32 [m] has m > n in the first
    step, where the prompt's row stands for all beams. The candidates are enough for m beams to
    continue, even if every eos is among them.
    """
    num_beams, num_rows, vocab_size = len(beam_scores), *scores.shape
    totals = (scores + beam_scores.to(scores.device)[:, None]).flatten()
    count = min(max(2, 1 + len(params.eos_token_ids)) * num_beams, len(totals))
    if params.do_sample:
        chosen = _sample(totals, count, beams[0].length, params.seed)
    else:
        chosen = totals.topk(count).indices
    rows = (chosen // vocab_size).clamp(max=num_rows - 1)
    tokens = _beam_tokens(scores, rows, chosen % vocab_size, params.top_logprobs)
    return Candidates(
        scores=totals[chosen].cpu(),
        parents=[first_row + row for row in rows.tolist()],
        beams=[
            beams[row].extended_by(t, params) for row, t in zip(rows.tolist(), tokens, strict=True)
        ],
    )


def _sample(totals: torch.Tensor, count: int, position: int, seed: int) -> torch.Tensor:
    """Sample indices [count] one after the other, without replacement, from softmax(`totals`).

    If fewer are possible, any others follow.
    """
    impossible = totals.new_full((1, 1), -torch.inf)
    _, indices = indices_of(below(impossible, totals[None]))
    left = totals[None, indices]
    uniform = torch.from_numpy(uniforms([seed] * count, range(count), [position] * count))
    columns = []
    for number in uniform[: len(indices)].to(totals.device):
        columns.append(multinomial_tiled(left, number[None]))
        left[0, columns[-1]] = -torch.inf
    others = (totals == -torch.inf).nonzero()[:, 0] if len(columns) < count else indices
    return torch.cat([*(indices[column] for column in columns), others[: count - len(columns)]])


def _beam_tokens(
    scores: torch.Tensor, rows: torch.Tensor, token_ids: torch.Tensor, num_best: int
) -> list[BeamToken]:
    logprobs = scores[rows, token_ids].tolist()
    if not num_best:
        return list(map(BeamToken, token_ids.tolist(), logprobs))
    best = top_columns(scores, num_best)
    return list(map(BeamToken, token_ids.tolist(), logprobs, (best[row] for row in rows.tolist())))
