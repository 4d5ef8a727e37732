"""One sequence of the batch: its tokens, its blocks, and how much of it is in the KV cache."""

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from worker.engine.grammar.output_constraint import OutputConstraint
from worker.engine.outputs import PromptScores
from worker.engine.request import Request
from worker.engine.sampling.token_history import TokenHistory
from worker.engine.sampling_params import SamplingParams

if TYPE_CHECKING:  # it imports torch, and a sequence only carries it
    from worker.engine.sampling.logits_processors.base import LogitsPipeline

PrefixId = int | str
EMPTY_PREFIX = 0  # of the model itself; that of an adapter is its name


class DraftProposer(Protocol):
    """Propose tokens that may follow a sequence, for a step to verify."""

    def is_ready(self, num_tokens: int) -> bool:
        """Return whether to propose drafts for the sequence at this length."""

    def propose(self, token_ids: list[int], limit: int) -> list[int]:
        """Return up to `limit` tokens that may follow `token_ids`."""

    def record(self, num_drafts: int, num_accepted: int, num_tokens: int) -> None:
        """Record how many drafts were accepted; the sequence has `num_tokens` tokens now."""

    @property
    def predicted(self) -> tuple[int, int] | None:
        """Return how many drafts from the request's prediction were accepted and rejected."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One continuation of a request.

    There is no prefill and no decode phase: each step computes some of the tokens that are not in
    the KV cache. A step that computes the last of them yields logits for the next token.
    """

    request: Request
    index: int  # among the continuations of the request
    arrival: int  # orders groups of equal priority
    token_ids: list[int]  # prompt first
    pipeline: "LogitsPipeline" = field(repr=False)
    num_computed_tokens: int = 0  # with keys and values in the KV cache
    history: TokenHistory = field(default_factory=TokenHistory, repr=False)
    proposer: DraftProposer | None = field(default=None, repr=False)
    constraint: OutputConstraint | None = field(default=None, repr=False)
    prompt_scores: PromptScores | None = field(default=None, repr=False)  # until the first token

    # Kept by the block manager.
    block_table: "array[int]" = field(default_factory=lambda: array("i"))
    num_cached_blocks: int = 0  # the first blocks, which other sequences can find
    num_valid_cached_blocks: int = 0  # of these, the blocks that led to valid logits
    prefix_id: PrefixId = field(init=False)  # of the prefix that the cached blocks hold

    def __post_init__(self) -> None:
        self.prefix_id = self.empty_prefix_id

    @classmethod
    def of(
        cls,
        request: Request,
        index: int,
        arrival: int,
        pipeline: "LogitsPipeline",
        proposer: DraftProposer | None = None,
        constraint: OutputConstraint | None = None,
    ) -> "Sequence":
        """Make sequence `index` of a request, with the tokens that were generated before."""
        generated = request.generated[index] if index < len(request.generated) else ()
        token_ids = [*request.prompt_token_ids, *generated]
        sequence = cls(
            request, index, arrival, token_ids, pipeline, proposer=proposer, constraint=constraint
        )
        if index == 0 and not generated:
            is_scored = request.params.prompt_logprobs is not None
            sequence.prompt_scores = PromptScores(
                len(request.prompt_token_ids),
                token_ids=list(request.prompt_token_ids) if is_scored else None,
            )
        return sequence

    def append(self, token_id: int) -> None:
        """Append the next token. Call it once its logits turned out valid."""
        self.mark_cached_valid()
        self.token_ids.append(token_id)

    def child(self, index: int, token_id: int) -> "Sequence":
        """Return a successor with one more token for the same group; it has no blocks yet."""
        self.mark_cached_valid()
        child = self.extended_by((token_id,))
        child.index = index
        return child

    def extended_by(self, token_ids: tuple[int, ...]) -> "Sequence":
        """Return a copy without blocks that has these tokens as well."""
        tokens = [*self.token_ids, *token_ids]
        copy = Sequence(self.request, self.index, self.arrival, tokens, self.pipeline)
        copy.history = self.history.fork()
        copy.constraint = self.constraint
        return copy

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Return the sort key: the smaller rank runs first."""
        return (self.request.gives_way, -self.request.priority, self.arrival)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def generated_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_generated_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def max_length(self) -> int:
        """Return the most tokens it may have, prompt included: transformers' `max_length`."""
        return self.num_prompt_tokens + self.params.max_new_tokens

    @property
    def adapter(self) -> str | None:
        return self.request.adapter

    @property
    def scores_prompt(self) -> bool:
        """Return whether its chunks yield log-probabilities of the prompt's tokens."""
        return self.prompt_scores is not None and self.prompt_scores.token_ids is not None

    @property
    def is_cacheable(self) -> bool:
        """Return whether it uses blocks of others and others its own.

        Repaired logits may hide invalid values. Blocks of others come without the logits of their
        tokens, which the log-probabilities of a prompt need.
        """
        scores_prompt = self.index == 0 and self.params.prompt_logprobs is not None
        return not (self.params.remove_invalid_values or scores_prompt)

    @property
    def empty_prefix_id(self) -> PrefixId:
        """Return the id of its empty prefix; equal for sequences with the same keys and values."""
        if not self.is_cacheable:
            return -1 - self.arrival
        return EMPTY_PREFIX if self.adapter is None else self.adapter

    def mark_cached_valid(self) -> None:
        """Mark the cached blocks as valid: the logits that depend on them were."""
        self.num_valid_cached_blocks = self.num_cached_blocks
