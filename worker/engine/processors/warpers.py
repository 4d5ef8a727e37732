"""Processors that shape the distribution before a token is drawn from it.

Each copies the arithmetic of transformers' warper of the same name, with one value per row.
"""

from typing import ClassVar

import torch

from worker.engine.params import SamplingParams
from worker.engine.processors.base import Processor, per_row
from worker.engine.sequence import Sequence


class Warper(Processor):
    is_warper: ClassVar[bool] = True


class Temperature(Warper):
    def is_active(self, params: SamplingParams) -> bool:
        return params.temperature != 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        return scores / per_row(scores, (s.params.temperature for s in sequences))


class TopK(Warper):
    """Keep the k best; ties with the last of them stay (Fan et al. 2018)."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.top_k)

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        counts = [min(s.params.top_k or 0, scores.shape[1]) for s in sequences]
        best = scores.topk(max(counts), dim=-1).values
        last_kept = best.gather(1, torch.tensor(counts, device=scores.device)[:, None] - 1)
        return scores.masked_fill(scores < last_kept, -torch.inf)


class TopP(Warper):
    """Keep the smallest set of tokens with at least probability top_p (Holtzman et al. 2020)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.top_p < 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        ascending, order = scores.sort(dim=-1)
        cumulative = ascending.softmax(dim=-1).cumsum(dim=-1)
        removed = cumulative <= per_row(scores, (1 - s.params.top_p for s in sequences))
        removed[:, -1] = False
        return scores.masked_fill(removed.scatter(1, order, removed), -torch.inf)


class MinP(Warper):
    """Keep tokens with at least min_p times the probability of the best (Nguyen et al. 2024)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.min_p is not None

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        probabilities = scores.softmax(dim=-1)
        best = probabilities.max(dim=-1, keepdim=True)
        floor = best.values * per_row(scores, (s.params.min_p or 0.0 for s in sequences))
        removed = (probabilities < floor).scatter(1, best.indices, False)
        return scores.masked_fill(removed, -torch.inf)


class TypicalP(Warper):
    """Keep the tokens whose surprise is nearest to the entropy (Meister et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.typical_p < 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        mass = per_row(scores, (s.params.typical_p for s in sequences))
        log_probabilities = scores.log_softmax(dim=-1)
        entropy = -(log_probabilities * log_probabilities.exp()).nansum(-1, keepdim=True)
        distance, order = (-log_probabilities - entropy).abs().sort(dim=-1)
        cumulative = scores.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
        last_kept = (cumulative < mass).sum(dim=-1, keepdim=True).clamp_(max=scores.shape[1] - 1)
        removed = distance > distance.gather(1, last_kept)
        removed[:, 0] = False
        return scores.masked_fill(removed.scatter(1, order, removed), -torch.inf)


class EpsilonCutoff(Warper):
    """Keep tokens with at least probability epsilon (Hewitt et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return 0.0 < params.epsilon_cutoff < 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        return _cut_below(scores, per_row(scores, (s.params.epsilon_cutoff for s in sequences)))


class EtaCutoff(Warper):
    """Epsilon cutoff with a floor that falls with the entropy (Hewitt et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return 0.0 < params.eta_cutoff < 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        epsilon = per_row(scores, (s.params.eta_cutoff for s in sequences))
        normalized = scores - scores.logsumexp(dim=-1, keepdim=True)
        # A token that is ruled out adds 0 to the entropy: -inf * 0 would be nan.
        finite = normalized.clamp(min=torch.finfo(scores.dtype).min)
        entropy = -(finite * normalized.softmax(dim=-1)).sum(dim=-1, keepdim=True)
        return _cut_below(scores, torch.min(epsilon, epsilon.sqrt() * (-entropy).exp()))


def _cut_below(scores: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """Remove tokens with a probability below `floor` [n, 1], but never the best one."""
    is_best = scores >= scores.amax(dim=-1, keepdim=True)
    return scores.masked_fill((scores.softmax(dim=-1) < floor) & ~is_best, -torch.inf)
