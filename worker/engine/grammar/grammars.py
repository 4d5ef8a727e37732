"""Compile the grammars of requests, and compute the masks of a step while the model runs."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from shared.request.limits import MAX_MASK_ITEMS
from worker.engine.grammar.output_constraint import CpuBudget, OutputConstraint
from worker.engine.sampling_params import SamplingParams

# Follows an output that may end. It is an id of its own, so no token of the model stands for it.
END = "<|\x00end of output\x00|>"
MAX_COMPILED = 64  # grammars to keep: clients tend to send the same few

# The tokens generated so far, and the drafts after them.
ConstrainedOutput = tuple[OutputConstraint, list[int], tuple[int, ...]]


class Grammars:
    """The grammars of one engine. `compile` may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._end_id = tokenizer.get_vocab_size()
        self._num_tokens = max(vocab_size, self._end_id + 1)
        self._ll_tokenizer: LLTokenizer | None = None  # takes a moment: made for the first grammar
        self._matchers: OrderedDict[str, LLMatcher] = OrderedDict()  # the latest last
        self._lock = Lock()  # of `_matchers`; the engine thread waits for it
        self._compiling = Lock()  # one grammar at a time
        self._pool = ThreadPoolExecutor(1, "masks")

    def compile(self, grammar: str) -> LLMatcher:
        """Return a matcher at the start of a grammar, to be copied; the latest grammars are kept.

        Raises ValueError, with llguidance's reason.
        """
        matcher = self._find(grammar)
        if matcher is None:
            with self._compiling:
                matcher = self._find(grammar) or self._compile(grammar)
            self._keep(grammar, matcher)
        return matcher

    def _find(self, grammar: str) -> LLMatcher | None:
        with self._lock:
            if grammar in self._matchers:
                self._matchers.move_to_end(grammar)
            return self._matchers.get(grammar)

    def _keep(self, grammar: str, matcher: LLMatcher) -> None:
        with self._lock:
            self._matchers[grammar] = matcher
            if len(self._matchers) > MAX_COMPILED:
                self._matchers.popitem(last=False)

    def constrain(
        self, params: SamplingParams, budget: CpuBudget, matcher: LLMatcher | None = None
    ) -> OutputConstraint | None:
        """Return the constraint of one new output; None without a grammar.

        Compiles the grammar, and may raise ValueError, unless `matcher` is what `compile` returned.
        """
        if params.grammar is None:
            return None
        matcher = matcher or self.compile(params.grammar)
        return OutputConstraint(
            matcher, self._num_tokens, self._end_id, params.eos_token_ids, budget
        )

    @contextmanager
    def masking(self, outputs: Iterable[ConstrainedOutput]) -> Iterator[None]:
        """Compute the masks that follow `outputs` in another thread; they are ready at the end."""
        texts: dict[OutputConstraint, list[list[int]]] = {}
        for constraint, token_ids, drafts in outputs:
            drafted = [[*token_ids, *drafts[:count]] for count in range(len(drafts) + 1)]
            texts.setdefault(constraint, []).extend(drafted)
        if not texts:
            yield
            return
        computing = self._pool.submit(_prepare, texts)
        try:
            yield
        finally:
            computing.result()

    def _compile(self, grammar: str) -> LLMatcher:
        if self._ll_tokenizer is None:
            tokenizer: Tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
            tokenizer.add_special_tokens([AddedToken(END, special=True)])
            self._ll_tokenizer = LLTokenizer(
                tokenizer.to_str(), n_vocab=self._num_tokens, eos_token=self._end_id
            )
        limits = LLParserLimits(step_max_items=MAX_MASK_ITEMS, verbose_errors=False)
        matcher = LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise ValueError(f"grammar must be valid: {matcher.get_error()}")
        return matcher


def _prepare(texts: dict[OutputConstraint, list[list[int]]]) -> None:
    for constraint, outputs in texts.items():
        constraint.prepare(outputs)
