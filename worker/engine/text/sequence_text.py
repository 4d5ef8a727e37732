"""The text of one sequence as it grows, and the token that ends it."""

from worker.engine.outputs import FinishReason, TokenOutput
from worker.engine.sequence import Sequence
from worker.engine.text.detokenizer import TokenBytes
from worker.engine.text.visible_text import VisibleText


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
        self._num_tokens_left = params.max_new_tokens
        self._text = VisibleText(token_bytes, params, prompt)
        self._sequence = sequence
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
        text = self._text.push(token_id)
        if self._text.is_stopped:
            self.finish_reason = FinishReason.STOP
        elif self._num_tokens_left == 0:
            self.finish_reason = FinishReason.LENGTH
        if self.finish_reason is not None:
            text += self._text.flush()
        output = TokenOutput(
            self._request_id, self._index, token_id, text, logprob, top_logprobs, self.finish_reason
        )
        if self.finish_reason is not None and self._sequence.proposer is not None:
            output.predicted = self._sequence.proposer.predicted
        if self._sequence.prompt_scores is not None:
            output.prompt, self._sequence.prompt_scores = self._sequence.prompt_scores, None
        return output
