"""Beam search and beam-sample by the rules of transformers 5 (`_beam_search`), for one prompt.

Small tensors stay on the CPU in float32, to get the same ties and roundings.
"""

from typing import Protocol

import torch

from worker.engine.beam.candidates import LOSING_SCORE, Candidates, expand_beams, first_scores
from worker.engine.beam.hypothesis import Beam, Hypothesis, Successor, length_divisor
from worker.engine.sampling.logits_processors import process
from worker.engine.sampling.logits_processors.base import SequenceViews
from worker.engine.sampling_params import SamplingParams


class Search(Protocol):
    """A state machine: logits of the rows in, rows of the next step out."""

    def propose(self, logits: torch.Tensor, sequences: SequenceViews) -> list[Candidates]:
        """Propose continuations of the rows, by their float32 `logits` [n, vocab].

        Changes no state. The first step has one row, the prompt; each later step has the rows that
        `advance` returned. Returns none if the scores form no distribution to sample from.
        """

    def advance(self, proposals: list[Candidates]) -> list[Successor]:
        """Take a step with the result of `propose`; return the next rows, none at the end."""

    def hypotheses(self) -> list[Hypothesis]:
        """Return the `num_return_sequences` results after the end, best first.

        A hypothesis without tokens stands for a beam that did not come about.
        """


class BeamSearch:
    """Keep the `num_beams` best running beams, and as many ended beams.

    With `early_stopping` False or "never", the search ends when no running beam can beat the worst
    ended beam: by its score at its present length, or at the best length. With True, it ends once
    `num_beams` beams have ended.
    """

    def __init__(self, params: SamplingParams, root: Beam) -> None:
        self._params = params
        self._running = [root]
        self._running_scores = first_scores(params.num_beams)
        self._ended = [root] * params.num_beams
        self._ended_scores = torch.full((params.num_beams,), LOSING_SCORE)
        self._has_ended = torch.zeros(params.num_beams, dtype=torch.bool)  # each of `_ended`
        self._can_improve = True

    def propose(self, logits: torch.Tensor, sequences: SequenceViews) -> list[Candidates]:
        scores = process(logits.log_softmax(dim=-1), sequences)
        if self._params.do_sample and not scores.amax() < torch.inf:
            return []
        return [expand_beams(self._running, self._running_scores, scores, self._params)]

    def advance(self, proposals: list[Candidates]) -> list[Successor]:
        [candidates] = proposals
        ends = torch.tensor([beam.finish_reason is not None for beam in candidates.beams])
        successors = self._continue(candidates, ends)
        self._keep_ended(candidates, ends)
        self._can_improve = self._can_improve and self._may_improve()
        is_over = not self._can_improve or self._is_full or bool(ends.all())
        return [] if is_over else successors

    def hypotheses(self) -> list[Hypothesis]:
        pairs = zip(self._ended, self._ended_scores.tolist(), strict=True)
        best = [Hypothesis(beam, score) for beam, score in pairs]
        return best[: self._params.num_return_sequences]

    @property
    def _is_full(self) -> bool:
        """Return whether `early_stopping` True has as many ended beams as it takes."""
        return self._params.early_stopping is True and bool(self._has_ended.all())

    def _continue(self, candidates: Candidates, ends: torch.Tensor) -> list[Successor]:
        """Continue with the best beams that have not ended."""
        scores = candidates.scores + ends.float() * LOSING_SCORE
        self._running_scores, best = scores.topk(self._params.num_beams)
        self._running = [candidates.beams[rank] for rank in best.tolist()]
        return candidates.successors(best.tolist())

    def _keep_ended(self, candidates: Candidates, ends: torch.Tensor) -> None:
        """Keep the best ended beams; only the first `num_beams` candidates may join them."""
        num_beams = self._params.num_beams
        joins = ends & (torch.arange(len(ends)) < num_beams)
        scores = candidates.scores / length_divisor(candidates.beams[0].length, self._params)
        for is_barred in (self._is_full, not self._can_improve):
            scores = scores + is_barred * LOSING_SCORE
        scores = scores + ~joins * LOSING_SCORE
        self._ended_scores, best = torch.cat([self._ended_scores, scores]).topk(num_beams)
        self._has_ended = torch.cat([self._has_ended, joins])[best]
        beams = [*self._ended, *candidates.beams]
        self._ended = [beams[index] for index in best.tolist()]

    def _may_improve(self) -> bool:
        """Return whether the best running beam could still beat the worst ended one."""
        params = self._params
        at_full_length = params.early_stopping == "never" and params.length_penalty > 0
        length = params.max_new_tokens if at_full_length else self._running[0].length
        best_possible = self._running_scores[0] / length_divisor(length, params)
        worst = torch.where(self._has_ended, self._ended_scores.min(), LOSING_SCORE)
        return bool((best_possible > worst).any())
