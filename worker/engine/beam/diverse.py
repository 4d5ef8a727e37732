"""Diverse beam search by the rules of transformers 4.37 (`group_beam_search`), for one prompt.

Groups of beams take turns in every step. A group's score of a token is lowered for each earlier
group that has chosen the token in this step (Vijayakumar et al. 2016).
"""

from dataclasses import replace
from operator import attrgetter

import torch

from worker.engine.beam.candidates import Candidates, expand_beams, first_scores
from worker.engine.beam.hypothesis import Beam, Hypothesis, Successor, length_divisor
from worker.engine.outputs import FinishReason
from worker.engine.sampling.logits_processors import process
from worker.engine.sampling.logits_processors.base import SequenceViews
from worker.engine.sampling_params import SamplingParams

_score = attrgetter("score")


class DiverseBeamSearch:
    """`num_beam_groups` searches that are independent except for the penalty."""

    def __init__(self, params: SamplingParams, root: Beam) -> None:
        self._params = params
        self._groups = [BeamGroup(params, root) for _ in range(params.num_beam_groups)]

    def propose(self, logits: torch.Tensor, sequences: SequenceViews) -> list[Candidates]:
        """Return one proposal for each group that is not done."""
        log_probs = logits.log_softmax(dim=-1)
        proposals: list[Candidates] = []
        taken: list[int] = []  # by earlier groups in this step
        for group in self._groups:
            if group.is_done:
                taken += group.padding
                continue
            scores = self._penalized(log_probs[group.rows], taken)
            candidates = group.propose(process(scores, sequences[group.rows]))
            taken += [s.token_id for s in candidates.successors(group.continuing(candidates))]
            proposals.append(candidates)
        return proposals

    def advance(self, proposals: list[Candidates]) -> list[Successor]:
        successors: list[Successor] = []
        running = [group for group in self._groups if not group.is_done]
        for group, candidates in zip(running, proposals, strict=True):
            successors += group.advance(candidates, first_row=len(successors))
        return successors

    def hypotheses(self) -> list[Hypothesis]:
        """Return the results of all groups, best first; of equal results the later first."""
        found = [hypothesis for group in self._groups for hypothesis in group.ended]
        return sorted(found, key=_score)[::-1][: self._params.num_return_sequences]

    def _penalized(self, log_probs: torch.Tensor, taken: list[int]) -> torch.Tensor:
        """Return scores [n, vocab] minus `diversity_penalty` for each time a token was taken."""
        vocab_size = log_probs.shape[1]
        counts = torch.bincount(torch.tensor(taken, dtype=torch.int64), minlength=vocab_size)
        penalty = self._params.diversity_penalty * counts[:vocab_size]  # a pad may be beyond it
        return log_probs - penalty.to(log_probs.device)


class BeamGroup:
    """A beam search with the group's share of the beams: 4.37's `BeamSearchScorer`."""

    def __init__(self, params: SamplingParams, root: Beam) -> None:
        self.rows = slice(0, 1)  # of the step
        self.ended: list[Hypothesis] = []  # the best
        self.is_done = False
        self._params = params
        self._size = params.num_beams // params.num_beam_groups
        self._running = [root]
        self._running_scores = first_scores(self._size)

    @property
    def padding(self) -> list[int]:
        """Return the tokens of its beams once it is done, as in a batch of fixed size."""
        pad = self._params.pad_token_id
        pads = self._params.eos_token_ids[:1] if pad is None else (pad,)
        return [*pads] * self._size

    def propose(self, scores: torch.Tensor) -> Candidates:
        """Propose continuations by the processed `scores` [n, vocab] of its rows."""
        first_row: int = self.rows.start
        return expand_beams(self._running, self._running_scores, scores, self._params, first_row)

    def continuing(self, candidates: Candidates) -> list[int]:
        """Return the ranks of the best candidates that have not ended."""
        beams = enumerate(candidates.beams)
        return [rank for rank, beam in beams if not _has_stopped(beam)][: self._size]

    def advance(self, candidates: Candidates, first_row: int) -> list[Successor]:
        """Take a step; return its next rows, from `first_row` on; none when it is done."""
        totals = candidates.scores.tolist()  # Python floats from here on, as in 4.37
        for beam, total in zip(candidates.beams[: self._size], totals, strict=False):
            if _has_stopped(beam):
                self._keep(beam, total)
        ranks = self.continuing(candidates)
        self._running = [candidates.beams[rank] for rank in ranks]
        self._running_scores = candidates.scores[ranks]
        self.rows = slice(first_row, first_row + len(ranks))
        self.is_done = not ranks or self._is_settled(max(totals))
        self._end_at_full_length()
        return [] if self.is_done else candidates.successors(ranks)

    def _keep(self, beam: Beam, total: float) -> None:
        """Keep an ended beam if there is room, or in place of the worst if it is better."""
        score = total / length_divisor(beam.length, self._params)
        if len(self.ended) == self._size:
            worst = min(self.ended, key=_score)
            if not score > worst.score:
                return
            self.ended.remove(worst)
        self.ended.append(Hypothesis(self._with_first_eos(beam), score))

    def _is_settled(self, best_total: float) -> bool:
        """Return whether enough beams have ended and no running one can beat them."""
        params = self._params
        if len(self.ended) < self._size or params.early_stopping is True:
            return len(self.ended) == self._size
        at_full_length = params.early_stopping == "never" and params.length_penalty > 0
        length = params.max_new_tokens if at_full_length else self._running[0].length
        worst = min(hypothesis.score for hypothesis in self.ended)
        return worst >= best_total / length_divisor(length, params)

    def _end_at_full_length(self) -> None:
        if not self.is_done and self._running[0].length == self._params.max_new_tokens:
            for beam, total in zip(self._running, self._running_scores.tolist(), strict=True):
                self._keep(beam, total)
            self.is_done = True

    def _with_first_eos(self, beam: Beam) -> Beam:
        """Replace the eos at the end by the first of `eos_token_ids`, as 4.37 does."""
        last = beam.tokens[-1]
        if last.token_id not in self._params.eos_token_ids:
            return beam
        first = replace(last, token_id=self._params.eos_token_ids[0])
        return replace(beam, tokens=(*beam.tokens[:-1], first))


def _has_stopped(beam: Beam) -> bool:
    """Return whether an eos or a stop string ended the beam; full length does not count."""
    return beam.finish_reason is FinishReason.STOP
