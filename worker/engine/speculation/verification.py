"""What a step gives a sequence: the drafts that proved right, and one token more.

Knows no model, no way of choosing and none of drafting.
"""

from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from itertools import zip_longest

from worker.engine.outputs import TokenOutput
from worker.engine.sampling.sampled_token import Choice, NoChoice
from worker.engine.sequence import Sequence
from worker.engine.text.text_stream import TextStream


@dataclass(frozen=True, slots=True)
class NextTokens:
    """The choices that stand, at least one; `problem` is why there is none after them, if so."""

    choices: list[Choice]
    num_drafts: int = 0
    problem: NoChoice | None = None

    @property
    def num_accepted(self) -> int:
        """Drafts that proved right."""
        return len(self.choices) - (self.problem is None)

    def told(self, sequence: Sequence, stream: TextStream) -> list[TokenOutput]:
        """The tokens of `sequence` with what they add to its text, up to one that ends it."""
        outputs = []
        for choice in self.choices:
            output = TokenOutput(
                request_id=sequence.request_id,
                sequence=sequence.index,
                token_id=choice.token_id,
                text=stream.push(choice.token_id),
                logprob=choice.logprob,
                top_logprobs=choice.top_logprobs,
                finish_reason=stream.finish_reason,
            )
            outputs.append(output)
            if output.finish_reason is not None:
                break
        return outputs


def verified(choices: list[Choice | NoChoice], drafts: Ordered[int]) -> NextTokens | NoChoice:
    """What stands of the choices for a sequence as it is and as each more of its `drafts` makes it.

    A draft is accepted where it is what was chosen in its place. Then the next choice is the very
    one that a step for the longer sequence would have made, whether it was drawn or the best.
    """
    standing: list[Choice] = []
    for choice, draft in zip_longest(choices, drafts):
        if isinstance(choice, NoChoice):
            return NextTokens(standing, len(drafts), choice) if standing else choice
        standing.append(choice)
        if choice.token_id != draft:
            break
    return NextTokens(standing, len(drafts))
