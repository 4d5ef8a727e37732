"""Sample in fixed shapes and without the host, so that a CUDA graph can replay it.

Serves temperature, top-k and top-p. `sampler` chooses the same tokens, but for rounding. Where
a row needs more than its best columns, the result says so, and the sampler takes the row.
"""

from dataclasses import dataclass

import torch

from worker.engine.sampling.logits_processors.base import SequenceViews
from worker.engine.sampling.multinomial import multinomial, multinomial_tiled
from worker.engine.sampling.philox import uniforms

_WIDTH = 1024  # best columns that top-k and top-p look at


@dataclass(frozen=True, slots=True)
class SamplingInputs:
    """The parameters of each row, columns of one matrix."""

    temperature: torch.Tensor  # float64 [rows]; 0 leaves the row's token as it is
    top_k: torch.Tensor  # float64 [rows]; 0: off
    top_p: torch.Tensor  # float64 [rows]; 1: off
    uniform: torch.Tensor  # float64 [rows] in [0, 1): decides

    def fill(self, sequences: SequenceViews) -> None:
        """Write the parameters of rows on the host. Other rows, and padding, are not sampled."""
        self.temperature.zero_()
        sampled = [(row, s) for row, s in enumerate(sequences) if s.pipeline.samples_plainly]
        rows = [row for row, _ in sampled]
        params = [sequence.params for _, sequence in sampled]
        self.temperature.numpy()[rows] = [own.temperature for own in params]
        self.top_k.numpy()[rows] = [own.top_k or 0 for own in params]
        self.top_p.numpy()[rows] = [own.top_p for own in params]
        self.uniform.numpy()[rows] = uniforms(
            [own.seed for own in params],
            [sequence.index for _, sequence in sampled],
            [sequence.num_generated_tokens for _, sequence in sampled],
        )


def best_tokens(logits: torch.Tensor, tokens: torch.Tensor, is_open: torch.Tensor) -> None:
    """Write the best token of each row of `logits` float32 [rows, vocab] to int64 `tokens` [rows].

    `is_open` int64 [rows] becomes 1 where the best logit is not finite.
    """
    best, columns = logits.max(dim=-1)
    tokens.copy_(columns)
    is_open.copy_(best.isfinite().logical_not_())


def sampled_tokens(
    logits: torch.Tensor, inputs: SamplingInputs, tokens: torch.Tensor, is_open: torch.Tensor
) -> None:
    """Write sampled tokens over the best tokens, in rows with a temperature.

    `is_open` becomes 1 where the best columns do not hold all that may be sampled.
    """
    samples = inputs.temperature > 0
    temperature = torch.where(samples, inputs.temperature, 1.0)[:, None].float()
    scaled = logits / temperature
    top_k, top_p = inputs.top_k.long()[:, None], inputs.top_p[:, None]
    best = _BestColumns.of(scaled)
    kth = best.lowest_of_top_k(top_k)
    lowest, num_ties = best.lowest_of_top_p(kth, scaled, top_k, top_p)
    drawn = best.draw(lowest, num_ties, inputs.uniform)
    reads_all = ((top_k == 0) & (top_p >= 1))[:, 0]
    drawn = torch.where(reads_all, multinomial_tiled(scaled, inputs.uniform), drawn)
    is_short = best.may_continue(torch.where(top_k > 0, kth, lowest)) & ~reads_all
    tokens.copy_(torch.where(samples, drawn, tokens))
    is_open.bitwise_or_((samples & is_short).long())


@dataclass(frozen=True, slots=True)
class _BestColumns:
    """The best columns of each row of scaled scores, best first."""

    scores: torch.Tensor  # float32 [rows, width]
    token_ids: torch.Tensor  # int64 [rows, width]
    vocab_size: int

    @classmethod
    def of(cls, scaled: torch.Tensor) -> "_BestColumns":
        best = scaled.topk(min(_WIDTH, scaled.shape[1]))
        return cls(best.values, best.indices, scaled.shape[1])

    @property
    def width(self) -> int:
        return self.scores.shape[1]

    def lowest_of_top_k(self, top_k: torch.Tensor) -> torch.Tensor:
        """Return the lowest score that top-k keeps, [rows, 1]; -inf where it is off."""
        kth = self.scores.gather(-1, (top_k - 1).clamp(0, self.width - 1))
        return torch.where(top_k > 0, kth, -torch.inf)

    def lowest_of_top_p(
        self, lowest: torch.Tensor, scaled: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the lowest score that top-p keeps too, and how many ties with it go, [rows, 1].

        The arithmetic of `TopP`. Without top-k, columns beyond the best count with their mass.
        """
        ordered = torch.where(self.scores < lowest, -torch.inf, self.scores).flip(-1)
        top = self.scores[:, :1]
        weights = (ordered - top).exp()
        beyond = (scaled - top).exp().sum(-1, keepdim=True) - weights.sum(-1, keepdim=True)
        beyond = torch.where(top_k > 0, 0.0, beyond.clamp(min=0.0))
        if self.width == self.vocab_size:
            beyond = torch.zeros_like(beyond)
        total = weights.sum(-1, keepdim=True) + beyond
        cumulative = (weights / total).cumsum(-1) + beyond / total
        num_removed = torch.searchsorted(cumulative, (1 - top_p).float(), right=True)
        num_removed = num_removed.clamp(max=self.width - 1)
        kept = ordered.gather(-1, num_removed)
        num_ties = num_removed - torch.searchsorted(ordered, kept)
        is_off = top_p >= 1
        return torch.where(is_off, lowest, kept), torch.where(is_off, 0, num_ties)

    def draw(
        self, lowest: torch.Tensor, num_ties: torch.Tensor, uniform: torch.Tensor
    ) -> torch.Tensor:
        """Draw one of the columns of each row that score at least `lowest`; return int64 [rows].

        By ascending token, as the sampler does, without the first `num_ties` that tie with it.
        """
        token_ids, order = self.token_ids.sort(-1)
        scores = self.scores.gather(-1, order)
        is_tie = scores == lowest
        removed = (scores < lowest) | (is_tie & (is_tie.cumsum(-1) <= num_ties))
        columns = multinomial(torch.where(removed, -torch.inf, scores), uniform)
        return token_ids.gather(-1, columns[:, None])[:, 0]

    def may_continue(self, lowest: torch.Tensor) -> torch.Tensor:
        """Return whether columns beyond these may score `lowest` [rows, 1] as well, bool [rows]."""
        if self.width == self.vocab_size:
            return torch.zeros_like(lowest[:, 0], dtype=torch.bool)
        return (self.scores[:, -1:] >= lowest)[:, 0]
