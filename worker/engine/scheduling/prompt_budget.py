"""Share the tokens of a step among prompts, without delaying decoding sequences too much.

The unit of cost is the time of one prompt token without context. A decoding sequence costs about
one unit. `max_chunk_tokens` is the cost of a step in which one sequence decodes: most of it is the
reading of the weights. So a step that only decodes costs `max_chunk_tokens` - 1 + its sequences.

One or two prompts at most double the time of a decoding step; each further prompt adds half of that
time. Without a decoding sequence, prompts get the whole step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A prompt token's attention to this many tokens takes about as long as the rest of its step.
_CONTEXT_OF_DOUBLE_COST = 1024
_PROMPTS_PER_DECODING_STEP = 2  # that share the time of one decoding step


@dataclass(frozen=True, slots=True)
class PromptWork:
    """The tokens of a sequence that are to be computed; at least two."""

    num_computed: int
    num_wanted: int

    @property
    def token_cost(self) -> float:
        """Return the cost of its next token, with its attention to computed tokens."""
        return token_cost(self.num_computed)


def token_cost(num_computed: int) -> float:
    """Return the cost of a token after `num_computed` tokens."""
    return 1 + num_computed / _CONTEXT_OF_DOUBLE_COST


def prompt_cost_limit(*, num_decoding: int, num_prompts: int, max_chunk_tokens: int) -> float:
    """Return the most that the prompt tokens of a step may cost; no limit if nothing decodes."""
    if num_decoding == 0:
        return math.inf
    step_cost = max_chunk_tokens - 1 + num_decoding
    return step_cost * max(1.0, num_prompts / _PROMPTS_PER_DECODING_STEP)


def share_among_prompts(
    prompts: Sequence[PromptWork], *, max_tokens: int, max_cost: float
) -> list[int]:
    """Return the tokens of each prompt in a step: one, and its share of what the limits leave.

    Half of the cost goes to the prompts in order, so that each soon is the first; the rest goes to
    the shortest prompts, so that they do not wait for long prompts. `max_tokens` is at least the
    number of prompts.
    """
    sizes = [1] * len(prompts)
    num_left = max_tokens - len(prompts)
    cost_left = max_cost - sum(prompt.token_cost for prompt in prompts)
    in_order = range(len(prompts))
    shortest_first = sorted(in_order, key=lambda index: prompts[index].num_wanted)
    for indices, reserved in ((in_order, cost_left / 2), (shortest_first, 0.0)):
        for index in indices:
            prompt = prompts[index]
            num_affordable = (cost_left - reserved) / prompt.token_cost
            most = min(prompt.num_wanted - sizes[index], num_left, num_affordable)
            extra = max(0, int(most))
            sizes[index] += extra
            num_left -= extra
            cost_left -= extra * prompt.token_cost
    return sizes
