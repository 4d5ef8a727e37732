"""One row of the batch: its tokens, its blocks, and how far the KV cache has caught up.

Plain Python; knows nothing of tensors, text or who else runs.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from worker.engine.params import SamplingParams
from worker.engine.request import Request


class SequenceStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """Continuation number `index` of a request; `arrival` orders sequences of equal priority.

    `num_computed_tokens` of its `num_tokens` have keys and values in the cache. There is no
    prefill and no decode: each step computes some of the rest, and a step that computes the last
    of them yields logits for the next token.
    """

    request: Request
    index: int
    arrival: int
    token_ids: list[int]
    num_computed_tokens: int = 0
    block_table: list[int] = field(default_factory=list)
    status: SequenceStatus = SequenceStatus.WAITING

    @classmethod
    def of(cls, request: Request, index: int, arrival: int) -> "Sequence":
        generated = request.generated[index] if index < len(request.generated) else ()
        return cls(request, index, arrival, [*request.prompt_token_ids, *generated])

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def rank(self) -> tuple[int, int]:
        """Who goes first: the smaller rank."""
        return (-self.request.priority, self.arrival)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_generated_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def max_length(self) -> int:
        """Tokens it may reach, prompt included: `max_length` in transformers' words."""
        return self.num_prompt_tokens + self.params.max_new_tokens
