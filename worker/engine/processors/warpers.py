"""Processors that shape the distribution before a token is drawn from it.

Each copies the arithmetic of transformers' warper of the same name, with one value per row; none
leaves fewer than `min_tokens_to_keep` tokens.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch

from worker.engine.ordering import ascending, kth_best, order_of_distances
from worker.engine.params import SamplingParams
from worker.engine.processors.base import Shaper, count_per_row, per_row
from worker.engine.sequence import Sequence


class Warper(Shaper):
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
        counts = count_per_row(scores, (s.params.num_candidates or 0 for s in sequences))
        return scores.masked_fill(scores < kth_best(scores, counts), -torch.inf)


class TopP(Warper):
    """Keep the smallest set of tokens with at least probability top_p (Holtzman et al. 2020)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.top_p < 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        ordered = ascending(scores)
        cumulative = ordered.softmax(dim=-1).cumsum(dim=-1)
        is_tail = cumulative <= per_row(scores, (1 - s.params.top_p for s in sequences))
        most = scores.shape[1] - _kept(scores, sequences)
        num_removed = torch.minimum(is_tail.sum(dim=-1, keepdim=True), most)
        last_kept = ordered.gather(-1, num_removed)
        removed = scores < last_kept
        # Of tokens that tie with the last one kept, the first may have to go as well.
        num_ties = num_removed - removed.sum(dim=-1, keepdim=True)
        if (num_ties > 0).any():
            is_tie = scores == last_kept
            removed |= is_tie & (is_tie.cumsum(dim=-1) <= num_ties)
        return scores.masked_fill(removed, -torch.inf)


class MinP(Warper):
    """Keep tokens with at least min_p times the probability of the best (Nguyen et al. 2024)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.min_p is not None

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        probabilities = scores.softmax(dim=-1)
        kept = _kept(scores, sequences)
        best = probabilities.topk(int(kept.max()), dim=-1)
        floor = best.values[:, :1] * per_row(scores, (s.params.min_p or 0.0 for s in sequences))
        removed = _spare_first(probabilities < floor, best.indices, kept)
        return scores.masked_fill(removed, -torch.inf)


class TypicalP(Warper):
    """Keep the tokens whose surprise is nearest to the entropy (Meister et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.typical_p < 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        mass = per_row(scores, (s.params.typical_p for s in sequences))
        log_probabilities = scores.log_softmax(dim=-1)
        distance = (-log_probabilities - _entropy(log_probabilities)).abs()
        order = order_of_distances(distance)
        cumulative = scores.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
        last_kept = (cumulative < mass).sum(dim=-1, keepdim=True).clamp_(max=scores.shape[1] - 1)
        removed = distance > distance.gather(-1, order.gather(-1, last_kept))
        removed = _spare_first(removed, order, _kept(scores, sequences))
        return scores.masked_fill(removed, -torch.inf)


class EpsilonCutoff(Warper):
    """Keep tokens with at least probability epsilon (Hewitt et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return 0.0 < params.epsilon_cutoff < 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        floor = per_row(scores, (s.params.epsilon_cutoff for s in sequences))
        return _cut_below(scores, floor, sequences)


class EtaCutoff(Warper):
    """Epsilon cutoff with a floor that falls with the entropy (Hewitt et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return 0.0 < params.eta_cutoff < 1.0

    def __call__(self, scores: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        epsilon = per_row(scores, (s.params.eta_cutoff for s in sequences))
        entropy = _entropy(scores.log_softmax(dim=-1))
        floor = torch.min(epsilon, epsilon.sqrt() * (-entropy).exp())
        return _cut_below(scores, floor, sequences)


def _kept(scores: torch.Tensor, sequences: Iterable[Sequence]) -> torch.Tensor:
    """How many tokens of each row no warper may remove, int64 [n, 1]."""
    return count_per_row(scores, (s.params.min_tokens_to_keep for s in sequences))


def _entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy of each row in nats, [n, 1]; tokens that were ruled out add nothing.

    By a running sum: `sum` may add up a row in another order when it is alone.
    """
    surprise = -log_probabilities * log_probabilities.exp()
    return surprise.nan_to_num_(nan=0.0).cumsum(dim=-1)[:, -1:]


def _spare_first(removed: torch.Tensor, order: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """`removed` [n, width] without the first `counts` [n, 1] columns that `order` [n, m] lists."""
    first = order[:, : int(counts.max())]
    is_spared = torch.arange(first.shape[1], device=order.device) < counts
    return removed.scatter(-1, first, removed.gather(-1, first) & ~is_spared)


def _cut_below(
    scores: torch.Tensor, floor: torch.Tensor, sequences: list[Sequence]
) -> torch.Tensor:
    """Remove tokens with a probability below `floor` [n, 1], but none of the best."""
    is_rare = scores.softmax(dim=-1) < floor
    is_best = scores >= kth_best(scores, _kept(scores, sequences))
    return scores.masked_fill(is_rare & ~is_best, -torch.inf)
