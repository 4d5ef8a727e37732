"""The continuations that a step of beam search looks at: the best of all beams, or drawn ones.

Float32 in the order of transformers' `_beam_search`, so that roundings and ties fall as there.
"""

from dataclasses import dataclass

import torch

from worker.engine.beam.hypothesis import Beam, Step, Successor
from worker.engine.sampling.multinomial import draw_wide
from worker.engine.sampling.philox import uniforms
from worker.engine.sampling.sampled_token import best_columns
from worker.engine.sampling.sorting import below, places_of
from worker.engine.sampling_params import SamplingParams

IMPOSSIBLE = -1.0e9  # transformers' score of what shall not win


@dataclass(frozen=True, slots=True)
class Candidates:
    """Beams that are one token longer, and the row of the step that each came from.

    `scores`: sums of log-probabilities, float32 [k] in CPU memory; best first, or as drawn.
    """

    scores: torch.Tensor
    parents: list[int]
    beams: list[Beam]

    def successors(self, ranks: list[int]) -> list[Successor]:
        """The rows that follow if the candidates of these ranks go on."""
        return [Successor(self.parents[r], self.beams[r].steps[-1].token_id) for r in ranks]


def first_scores(num_beams: int) -> torch.Tensor:
    """Of equal beams only the first counts, or they would stay equal; float32 [num_beams]."""
    scores = torch.full((num_beams,), IMPOSSIBLE)
    scores[0] = 0.0
    return scores


def grow(
    beams: list[Beam],
    beam_scores: torch.Tensor,
    scores: torch.Tensor,
    params: SamplingParams,
    first_row: int = 0,
) -> Candidates:
    """What may follow `beams`, the rows from `first_row` on, by the processed `scores` [n, vocab].

    `beam_scores` float32 [m] has m > n in the first step: the prompt's row stands for all beams.
    There are enough candidates for m to go on, even if every eos is among them.
    """
    num_beams, num_rows, vocab_size = len(beam_scores), *scores.shape
    totals = (scores + beam_scores.to(scores.device)[:, None]).flatten()
    count = min(max(2, 1 + len(params.eos_token_ids)) * num_beams, len(totals))
    if params.do_sample:
        chosen = _draw(totals, count, beams[0].length, params.seed)
    else:
        chosen = totals.topk(count).indices
    rows = (chosen // vocab_size).clamp(max=num_rows - 1)
    steps = _steps(scores, rows, chosen % vocab_size, params.top_logprobs)
    return Candidates(
        scores=totals[chosen].cpu(),
        parents=[first_row + row for row in rows.tolist()],
        beams=[beams[row].grown(s, params) for row, s in zip(rows.tolist(), steps, strict=True)],
    )


def _draw(totals: torch.Tensor, count: int, position: int, seed: int) -> torch.Tensor:
    """Indices [count] drawn one after the other, without replacement, from softmax(`totals`).

    Where fewer than that are possible, any others follow.
    """
    impossible = totals.new_full((1, 1), -torch.inf)
    _, indices = places_of(below(impossible, totals[None]))
    left = totals[None, indices]
    uniform = torch.from_numpy(uniforms([seed] * count, range(count), [position] * count))
    columns = []
    for number in uniform[: len(indices)].to(totals.device):
        columns.append(draw_wide(left, number[None]))
        left[0, columns[-1]] = -torch.inf
    others = (totals == -torch.inf).nonzero()[:, 0] if len(columns) < count else indices
    return torch.cat([*(indices[column] for column in columns), others[: count - len(columns)]])


def _steps(
    scores: torch.Tensor, rows: torch.Tensor, token_ids: torch.Tensor, num_best: int
) -> list[Step]:
    logprobs = scores[rows, token_ids].tolist()
    if not num_best:
        return list(map(Step, token_ids.tolist(), logprobs))
    best = [best_columns(row, num_best) for row in scores]
    return list(map(Step, token_ids.tolist(), logprobs, (best[row] for row in rows.tolist())))
