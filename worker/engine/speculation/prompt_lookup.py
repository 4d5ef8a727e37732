"""Propose drafts for speculative decoding by prompt lookup.

Prompt lookup decoding is by A. Saxena, 2023 (github.com/apoorvumang/prompt-lookup-decoding);
transformers calls it `prompt_lookup_num_tokens`.
"""

from collections.abc import Sequence

from worker.engine.sampling_params import SamplingParams

PREDICTION_DRAFTS = 10  # per step, for a request with a prediction that sets no number
MAX_PAUSE = 32  # tokens between useless drafts in a text that never repeats itself


class PromptLookup:
    """Propose drafts for one list of tokens, less often the more drafts are rejected.

    After a draft of which no token is accepted it pauses for one token, then two, then four, until
    a token is accepted.
    """

    def __init__(
        self, num_tokens: int, max_ngram_size: int, prediction: Sequence[int] = ()
    ) -> None:
        """Draft up to `num_tokens`, also from `prediction`, as if it preceded the tokens."""
        self._prediction = list(prediction)
        self._num_tokens = num_tokens
        self._max_ngram_size = max_ngram_size
        self._continuations: dict[
            tuple[int, ...], int
        ] = {}  # where the last n-gram of its kind ends
        self._num_predicted = 0  # tokens of the last draft that come from the prediction
        self._accepted = self._rejected = 0  # of these, in all drafts
        self._num_read = 1
        self._pause = 0
        self._resume_at = 0  # tokens

    @classmethod
    def of(
        cls, params: SamplingParams, default: int | None, prediction: Sequence[int] = ()
    ) -> "PromptLookup | None":
        """Return the proposer that the parameters, or else `default`, ask for.

        Beam searches get none: their beams are candidates enough. A prediction asks for drafts.
        """
        num_tokens = params.prompt_lookup_num_tokens
        num_tokens = default if num_tokens is None else num_tokens
        if num_tokens is None and prediction:
            num_tokens = PREDICTION_DRAFTS
        if not num_tokens or params.num_beams > 1:
            return None
        return cls(num_tokens, params.max_matching_ngram_size, prediction)

    def is_ready(self, num_tokens: int) -> bool:
        """Return whether a sequence of `num_tokens` is past its pause."""
        return num_tokens >= self._resume_at

    def propose(self, token_ids: list[int], limit: int) -> list[int]:
        """Return up to `limit` tokens that followed when `token_ids` last ended as they do now.

        The longest n-gram that is found decides. If what followed reaches the end of the text, it
        repeats itself, like a copy in Lempel-Ziv compression (1977).
        """
        if self._prediction:
            token_ids = self._prediction + token_ids
        self._read(token_ids)
        start = self._find_continuation(token_ids)
        if start is None:
            return []
        period = len(token_ids) - start
        count = min(limit, self._num_tokens)
        self._num_predicted = max(0, len(self._prediction) - start)
        return [token_ids[start + offset % period] for offset in range(count)]

    def record(self, num_drafts: int, num_accepted: int, num_tokens: int) -> None:
        """Record how many tokens of a draft were accepted; a full rejection starts a pause."""
        num_predicted = min(num_drafts, self._num_predicted)
        self._accepted += min(num_accepted, num_predicted)
        self._rejected += max(0, num_predicted - num_accepted)
        self._pause = 0 if num_accepted else min(max(1, 2 * self._pause), MAX_PAUSE)
        self._resume_at = num_tokens + self._pause

    @property
    def predicted(self) -> tuple[int, int] | None:
        """Return the accepted and the rejected tokens of the prediction; None without one."""
        return (self._accepted, self._rejected) if self._prediction else None

    def _read(self, token_ids: list[int]) -> None:
        """Index the tokens that were added since the last call."""
        for end in range(self._num_read, len(token_ids)):
            for size in range(1, min(self._max_ngram_size, end) + 1):
                self._continuations[tuple(token_ids[end - size : end])] = end
        self._num_read = len(token_ids)

    def _find_continuation(self, token_ids: list[int]) -> int | None:
        for size in range(min(self._max_ngram_size, len(token_ids)), 0, -1):
            start = self._continuations.get(tuple(token_ids[-size:]))
            if start is not None:
                return start
        return None
