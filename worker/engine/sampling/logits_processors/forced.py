"""Processors that leave a single choice: a forced first token, a forced last token."""

import torch

from worker.engine.sampling.logits_processors.base import Edit
from worker.engine.sampling_params import SamplingParams
from worker.engine.sequence import Sequence


class ForcedBos(Edit):
    """After a prompt of one token the next is `forced_bos_token_id`."""

    def is_active(self, params: SamplingParams) -> bool:
        return params.forced_bos_token_id is not None

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: list[Sequence]) -> None:
        for row, sequence in zip(rows, sequences, strict=True):
            token_id = sequence.params.forced_bos_token_id
            if sequence.num_tokens == 1 and token_id is not None:
                _leave_only(scores[row], (token_id,))


class ForcedEos(Edit):
    """The last token of a sequence that reaches its full length is a `forced_eos_token_id`."""

    def is_active(self, params: SamplingParams) -> bool:
        return bool(params.forced_eos_token_ids)

    def __call__(self, scores: torch.Tensor, rows: list[int], sequences: list[Sequence]) -> None:
        for row, sequence in zip(rows, sequences, strict=True):
            if sequence.num_tokens == sequence.max_length - 1:
                _leave_only(scores[row], sequence.params.forced_eos_token_ids)


def _leave_only(scores: torch.Tensor, token_ids: tuple[int, ...]) -> None:
    """Set one row's scores to 0 for `token_ids` and to -inf for all others."""
    scores.fill_(-torch.inf)
    scores[list(token_ids)] = 0.0
