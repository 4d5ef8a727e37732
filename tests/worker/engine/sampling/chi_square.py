"""Pearson's chi-square test: whether counts may have come from a distribution."""

import torch

MIN_EXPECTED = 5.0  # per cell, below which the statistic is no chi-square (Cochran 1954)


def p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """How often true draws deviate at least as much; 0 when an impossible outcome was counted.

    `counts` and `probabilities`: [n]. Outcomes too rare for a cell of their own share one.
    """
    if counts[probabilities == 0].sum() > 0:
        return 0.0
    expected, order = (probabilities.double() * counts.sum()).sort()
    num_rare = int((expected < MIN_EXPECTED).sum())
    if expected[:num_rare].sum() < MIN_EXPECTED:
        num_rare += 1
    observed = _merge(counts[order].double(), num_rare)
    expected = _merge(expected, num_rare)
    half_statistic = ((observed - expected) ** 2 / expected).sum() / 2
    half_freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_freedom, half_statistic))


def _merge(cells: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` cells as one."""
    return torch.cat([cells[:count].sum()[None], cells[count:]])
