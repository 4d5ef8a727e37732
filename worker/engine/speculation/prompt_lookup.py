"""Drafts of what a sequence may say next, looked up in what it holds already.

Plain Python: knows neither the model nor who else runs. Prompt lookup decoding is A. Saxena's, 2023
(github.com/apoorvumang/prompt-lookup-decoding); transformers calls it `prompt_lookup_num_tokens`.
"""

from worker.engine.sampling_params import SamplingParams

MAX_PAUSE = 32  # tokens; what a row that never repeats itself computes in vain is one in so many


class PromptLookup:
    """Follows one list of tokens and proposes how it goes on, the more seldom the more that fails.

    A draft that fails altogether is followed by a pause of one token, the next one by two, then
    four, until one is accepted.
    """

    def __init__(self, num_tokens: int, max_ngram_size: int) -> None:
        self._num_tokens = num_tokens
        self._max_ngram_size = max_ngram_size
        self._places: dict[tuple[int, ...], int] = {}  # of the token after an n-gram's last coming
        self._num_read = 1
        self._pause = 0
        self._resume_at = 0  # tokens

    @classmethod
    def of(cls, params: SamplingParams, default: int | None) -> "PromptLookup | None":
        """What these parameters ask for; None where they, or no word of theirs and no `default`,
        ask for nothing. Beams are too many guesses to add others: they get none.
        """
        num_tokens = params.prompt_lookup_num_tokens
        num_tokens = default if num_tokens is None else num_tokens
        if not num_tokens or params.num_beams > 1:
            return None
        return cls(num_tokens, params.max_matching_ngram_size)

    def is_ready(self, num_tokens: int) -> bool:
        """Whether the sequence, having `num_tokens`, is past its pause."""
        return num_tokens >= self._resume_at

    def propose(self, token_ids: list[int], limit: int) -> list[int]:
        """Up to `limit` tokens that came when `token_ids` last ended as they do now.

        The longest n-gram that is found decides. What came may run into the end of the text: then
        it repeats itself, as a copy does in Lempel and Ziv's compression of 1977.
        """
        self._read(token_ids)
        place = self._place_after(token_ids)
        if place is None:
            return []
        period = len(token_ids) - place
        count = min(limit, self._num_tokens)
        return [token_ids[place + offset % period] for offset in range(count)]

    def note(self, num_accepted: int, num_tokens: int) -> None:
        """Hear how many tokens of a draft were accepted, the sequence having `num_tokens` since."""
        self._pause = 0 if num_accepted else min(max(1, 2 * self._pause), MAX_PAUSE)
        self._resume_at = num_tokens + self._pause

    def _read(self, token_ids: list[int]) -> None:
        """Take in what `token_ids` hold beyond their length at the last call."""
        for end in range(self._num_read, len(token_ids)):
            for size in range(1, min(self._max_ngram_size, end) + 1):
                self._places[tuple(token_ids[end - size : end])] = end
        self._num_read = len(token_ids)

    def _place_after(self, token_ids: list[int]) -> int | None:
        for size in range(min(self._max_ngram_size, len(token_ids)), 0, -1):
            place = self._places.get(tuple(token_ids[-size:]))
            if place is not None:
                return place
        return None
