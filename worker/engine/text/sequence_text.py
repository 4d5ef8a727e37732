"""The text of one sequence as it grows, and the token that ends it."""

from worker.engine.outputs import FinishReason, TokenOutput
from worker.engine.sequence import Sequence
from worker.engine.text.detokenizer import Detokenizer, StopStrings, TokenBytes


class SequenceText:
    """Detokenize one sequence and detect its end.

    Tokens of an earlier attempt are pushed without output; if they already end the sequence,
    `finish_reason` is set.
    """

    def __init__(self, sequence: Sequence, token_bytes: TokenBytes) -> None:
        params = sequence.params
        prompt = sequence.request.prompt_token_ids
        self._request_id = sequence.request_id
        self._index = sequence.index
        self._eos_token_ids = frozenset(params.eos_token_ids)
        self._num_tokens_left = params.max_new_tokens
        self._detokenizer = Detokenizer(token_bytes, prompt)
        self._stop_strings = StopStrings(token_bytes, params.stop_strings, prompt)
        self.finish_reason: FinishReason | None = None
        for token_id in sequence.token_ids[len(prompt) :]:
            self.push(token_id)

    def push(
        self,
        token_id: int,
        logprob: float | None = None,
        top_logprobs: dict[int, float] | None = None,
    ) -> TokenOutput:
        """Return the output of the next token: with the text that is certain, all at the end."""
        self._num_tokens_left -= 1
        text = self._detokenizer.push(token_id)
        self.finish_reason = self._reason_to_finish(token_id)
        if self.finish_reason is not None:
            text += self._detokenizer.flush()
        return TokenOutput(
            self._request_id, self._index, token_id, text, logprob, top_logprobs, self.finish_reason
        )

    def _reason_to_finish(self, token_id: int) -> FinishReason | None:
        completes_stop_string = self._stop_strings.push(token_id)
        if completes_stop_string or token_id in self._eos_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self._num_tokens_left == 0 else None
