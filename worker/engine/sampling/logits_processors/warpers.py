"""Processors that change the distribution before a token is sampled.

Each copies the arithmetic of transformers' warper of the same name, with one value per row. None
keeps fewer than `min_tokens_to_keep` tokens.
"""

from typing import ClassVar

import torch

from worker.engine.sampling.logits_processors.base import (
    RowProcessor,
    SequenceViews,
    count_per_row,
    per_row,
)
from worker.engine.sampling.sorting import ascending, below, kth_best, order_of_distances
from worker.engine.sampling.tiled_scores import tiled
from worker.engine.sampling_params import SamplingParams


class Warper(RowProcessor):
    is_warper: ClassVar[bool] = True


class Temperature(Warper):
    def is_active(self, params: SamplingParams) -> bool:
        return params.temperature != 1.0

    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        return scores / per_row(scores, (s.params.temperature for s in sequences))


class TopK(Warper):
    """Keep the k best; ties with the last of them stay (Fan et al. 2018)."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.top_k)

    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        counts = count_per_row(scores, (s.params.num_candidates or 0 for s in sequences))
        return _mask(scores, below(scores, kth_best(scores, counts)))


class TopP(Warper):
    """Keep the smallest set of tokens with at least probability top_p (Holtzman et al. 2020)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.top_p < 1.0

    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        ordered = ascending(scores)
        cumulative = ordered.softmax(dim=-1).cumsum(dim=-1)
        tail = per_row(scores, (1 - s.params.top_p for s in sequences))
        num_removed = torch.searchsorted(cumulative, tail, right=True)
        num_removed = num_removed.minimum(scores.shape[1] - _min_kept(scores, sequences))
        last_kept = ordered.gather(-1, num_removed)
        removed = below(scores, last_kept)
        # Of the tokens that tie with the last kept one, the first may be removed as well.
        num_ties = num_removed - torch.searchsorted(ordered, last_kept)
        if scores.device.type != "cpu" or (num_ties > 0).any():  # a GPU would make the host wait
            is_tie = scores == last_kept
            removed |= is_tie & (is_tie.cumsum(dim=-1) <= num_ties)
        return _mask(scores, removed)


class MinP(Warper):
    """Keep tokens with at least min_p times the probability of the best (Nguyen et al. 2024)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.min_p is not None

    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        probabilities = scores.softmax(dim=-1)
        share = per_row(scores, (s.params.min_p or 0.0 for s in sequences))
        floor = probabilities.amax(dim=-1, keepdim=True) * share
        removed, kept = below(probabilities, floor), _min_kept(scores, sequences)
        if (most := _most_kept(scores, sequences)) > 1:  # the best is never below the floor
            removed = _keep_first(removed, probabilities.topk(most, dim=-1).indices, kept)
        return _mask(scores, removed)


class TypicalP(Warper):
    """Keep the tokens with a surprise nearest to the entropy (Meister et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.typical_p < 1.0

    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        mass = per_row(scores, (s.params.typical_p for s in sequences))
        probabilities = scores.softmax(dim=-1)
        surprise = scores.log_softmax(dim=-1).neg_()
        distance = surprise.sub_(_mean(surprise, probabilities)).abs_()
        order = order_of_distances(distance)
        cumulative = probabilities.gather(-1, order).cumsum(dim=-1)
        last_kept = torch.searchsorted(cumulative, mass).clamp_(max=scores.shape[1] - 1)
        removed = below(distance.gather(-1, order.gather(-1, last_kept)), distance)
        first = order[:, : _most_kept(scores, sequences)]
        return _mask(scores, _keep_first(removed, first, _min_kept(scores, sequences)))


class EpsilonCutoff(Warper):
    """Keep tokens with at least probability epsilon (Hewitt et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return 0.0 < params.epsilon_cutoff < 1.0

    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        epsilon = per_row(scores, (s.params.epsilon_cutoff for s in sequences))
        return _cut_below(epsilon, scores.softmax(dim=-1), scores, sequences)


class EtaCutoff(Warper):
    """Epsilon cutoff with a floor that falls with the entropy (Hewitt et al. 2022)."""

    def is_active(self, params: SamplingParams) -> bool:
        return 0.0 < params.eta_cutoff < 1.0

    def __call__(self, scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
        epsilon = per_row(scores, (s.params.eta_cutoff for s in sequences))
        probabilities = scores.softmax(dim=-1)
        entropy = _mean(scores.log_softmax(dim=-1).neg_(), probabilities)
        floor = torch.min(epsilon, epsilon.sqrt() * (-entropy).exp())
        return _cut_below(floor, probabilities, scores, sequences)


def _min_kept(scores: torch.Tensor, sequences: SequenceViews) -> torch.Tensor:
    """Return how many tokens of each row warpers must keep, int64 [n, 1]."""
    return count_per_row(scores, (s.params.min_tokens_to_keep for s in sequences))


def _mean(surprise: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row in nats, [n, 1]; banned tokens add nothing to it.

    Sums tile by tile: a sum over a whole row has another order when the row is alone.
    """
    shares = (surprise * probabilities).nan_to_num_(nan=0.0)
    return tiled(shares, 0.0).sum(dim=-1).cumsum(dim=-1)[:, -1:]


def _cut_below(
    floor: torch.Tensor,
    probabilities: torch.Tensor,
    scores: torch.Tensor,
    sequences: SequenceViews,
) -> torch.Tensor:
    """Remove tokens with `probabilities` below `floor` [n, 1], except the best to keep."""
    worst_kept = kth_best(scores, _min_kept(scores, sequences))
    is_rare = below(probabilities, floor)
    return _mask(scores, is_rare.logical_and_(below(scores, worst_kept)))


def _most_kept(scores: torch.Tensor, sequences: SequenceViews) -> int:
    """Return the most of `_min_kept`, of which the host knows without the device."""
    return min(max(s.params.min_tokens_to_keep for s in sequences), scores.shape[1])


def _keep_first(removed: torch.Tensor, first: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return `removed` [n, width] without the first `counts` [n, 1] of the columns `first`."""
    is_kept = torch.arange(first.shape[1], device=first.device) < counts
    return removed.scatter(-1, first, removed.gather(-1, first) & ~is_kept)


def _mask(scores: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    """Return `scores` with -inf where bool `removed` is true.

    By addition: `masked_fill` branches at every element, which takes eight times as long when the
    CPU mispredicts.
    """
    penalty = removed.view(torch.int8).to(scores.dtype).mul_(-torch.finfo(scores.dtype).max)
    return scores + penalty.add_(penalty)  # twice the largest number is -inf, twice -0 is -0
