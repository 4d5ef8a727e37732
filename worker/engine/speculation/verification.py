"""Verification of drafts: which of a step's sampled tokens a sequence keeps."""

from dataclasses import dataclass
from itertools import zip_longest

from worker.engine.outputs import TokenOutput
from worker.engine.sampling.sampled_token import SampledToken, SamplingFailure
from worker.engine.sequence import Sequence
from worker.engine.text.sequence_text import SequenceText


@dataclass(frozen=True, slots=True)
class VerifiedTokens:
    """The tokens that a step adds to a sequence: accepted drafts and the token after them."""

    tokens: list[SampledToken]  # at least one
    num_drafts: int = 0
    failure: SamplingFailure | None = None  # why there is no token after the accepted drafts

    @property
    def num_accepted(self) -> int:
        """Return the number of drafts that were accepted."""
        return len(self.tokens) - (self.failure is None)

    def to_outputs(self, sequence: Sequence, text: SequenceText) -> list[TokenOutput]:
        """Add the tokens to `text` until the sequence ends; return their outputs."""
        outputs = []
        for token in self.tokens:
            output = TokenOutput(
                request_id=sequence.request_id,
                sequence=sequence.index,
                token_id=token.token_id,
                text=text.push(token.token_id),
                logprob=token.logprob,
                top_logprobs=token.top_logprobs,
                finish_reason=text.finish_reason,
            )
            outputs.append(output)
            if output.finish_reason is not None:
                break
        return outputs


def verify_drafts(
    sampled: list[SampledToken | SamplingFailure], drafts: tuple[int, ...]
) -> VerifiedTokens | SamplingFailure:
    """Return the tokens to keep, where `sampled[i]` follows the first i of `drafts`.

    A draft is accepted if it equals the token sampled in its place. The token after it is then the
    token that a step of the longer sequence would have sampled, in greedy mode and otherwise.
    """
    kept: list[SampledToken] = []
    for token, draft in zip_longest(sampled, drafts):
        if isinstance(token, SamplingFailure):
            return VerifiedTokens(kept, len(drafts), token) if kept else token
        kept.append(token)
        if token.token_id != draft:
            break
    return VerifiedTokens(kept, len(drafts))
