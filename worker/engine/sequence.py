"""One row of the batch: its tokens, its blocks, and how far the KV cache has caught up.

Plain Python; knows nothing of tensors, text or who else runs.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.engine.request import Request
from worker.engine.sampling.token_history import TokenHistory
from worker.engine.sampling_params import SamplingParams
from worker.engine.scheduling.prefix_cache import EMPTY_PREFIX, PrefixId
from worker.engine.speculation.prompt_lookup import PromptLookup

if TYPE_CHECKING:  # a sequence only carries them; they, and torch with them, know sequences
    from worker.engine.sampling.logits_processors.base import Processor


@dataclass(slots=True, eq=False)
class Sequence:
    """Continuation number `index` of a request; `arrival` orders groups of equal priority.

    `num_computed_tokens` of its `num_tokens` have keys and values in the cache. There is no
    prefill and no decode: each step computes some of the rest, and a step that computes the last
    of them yields logits for the next token, which `processors` go over. `lookup`, if it has one,
    proposes what may come after that.

    The block manager keeps the rest: the `block_table`, whose first `num_filed_blocks`, ending the
    prefix called `prefix_id`, others can find; the first `num_sound_blocks` are known to be sound.
    """

    request: Request
    index: int
    arrival: int
    token_ids: list[int]
    processors: tuple["Processor", ...] = ()
    num_computed_tokens: int = 0
    block_table: list[int] = field(default_factory=list)
    history: TokenHistory = field(default_factory=TokenHistory, repr=False)
    lookup: PromptLookup | None = field(default=None, repr=False)
    num_filed_blocks: int = 0
    num_sound_blocks: int = 0
    prefix_id: PrefixId = field(init=False)

    def __post_init__(self) -> None:
        self.prefix_id = self.prefix_root

    @classmethod
    def of(
        cls,
        request: Request,
        index: int,
        arrival: int,
        processors: tuple["Processor", ...] = (),
        num_drafts: int | None = None,
    ) -> "Sequence":
        """Drafts are `num_drafts` per step where the request does not say."""
        generated = request.generated[index] if index < len(request.generated) else ()
        token_ids = [*request.prompt_token_ids, *generated]
        lookup = PromptLookup.of(request.params, num_drafts)
        return cls(request, index, arrival, token_ids, processors, lookup=lookup)

    def append(self, token_id: int) -> None:
        """Take the next token."""
        self.vouch()
        self.token_ids.append(token_id)

    def child(self, index: int, token_id: int) -> "Sequence":
        """Its tokens and the next one, as another sequence of its group; no blocks yet."""
        self.vouch()
        child = self.ahead((token_id,))
        child.index = index
        return child

    def ahead(self, token_ids: tuple[int, ...]) -> "Sequence":
        """What it would be with these tokens as well; no blocks."""
        tokens = [*self.token_ids, *token_ids]
        ahead = Sequence(self.request, self.index, self.arrival, tokens, self.processors)
        ahead.history = self.history.fork()
        return ahead

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

    @property
    def adapter(self) -> str | None:
        return self.request.adapter

    @property
    def keeps_to_itself(self) -> bool:
        """Whether nobody may use what it computes: it may hide invalid values by repairing them."""
        return self.params.remove_invalid_values

    @property
    def prefix_root(self) -> PrefixId:
        """The id of its empty prefix, shared with those whose keys and values are the same."""
        if self.keeps_to_itself:
            return -1 - self.arrival
        return EMPTY_PREFIX if self.adapter is None else self.adapter

    def vouch(self) -> None:
        """Note that what is computed is sound: its logits, which depend on all of it, were."""
        self.num_sound_blocks = self.num_filed_blocks
