"""Masks of grammars, against partial matches of regular expressions and against bans of tokens."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from threading import Event
from typing import Any

import numpy as np
import pytest
import regex
import torch
from llguidance import LLMatcher

from tests.worker.engine.grammar.structures import EOS, grammar
from tests.worker.engine.random_params import random_prompt, random_sampling_params
from worker.engine import Request, SamplingParams
from worker.engine.grammar.grammars import Grammars
from worker.engine.grammar.output_constraint import (
    MAX_CPU_S,
    TOKEN_CPU_S,
    CpuBudget,
    OutputConstraint,
)
from worker.engine.sampling.logits_processors import make_pipeline
from worker.engine.sampling.sampled_token import SampledToken
from worker.engine.sampling.sampler import sample_tokens
from worker.engine.sequence import Sequence
from worker.model.checkpoint.tiny import bundled_checkpoint
from worker.model.tokenizer.tokenizer_files import load_tokenizer

VOCAB_SIZE = 2048
TOKENIZER = load_tokenizer(bundled_checkpoint())
GRAMMARS = Grammars(TOKENIZER, VOCAB_SIZE)
PATTERNS = (
    r"[A-Z][a-z]{2,9}( [0-9]{4})?",
    r"(red|green|blue)(, (red|green|blue)){0,2}",
    r"-?(0|[1-9][0-9]{0,4})(\.[0-9]{1,3})?",
    r'"[^"\\]{0,6}"',
)


def constraint_of(pattern: str) -> OutputConstraint:
    params = SamplingParams(eos_token_ids=(EOS,), grammar=grammar(regex=pattern))
    constraint = GRAMMARS.constrain(params, CpuBudget())
    assert constraint is not None
    return constraint


def allowed(constraint: OutputConstraint, token_ids: list[int]) -> set[int]:
    bits = np.unpackbits(constraint.mask(token_ids).view(np.uint8), bitorder="little")
    return {int(token_id) for token_id in bits.nonzero()[0]}


def viable(pattern: str, text: str) -> set[int]:
    """Return the tokens of ASCII after which the text can still match, and eos if it matches."""
    tokens = {token_id: TOKENIZER.decode([token_id]) for token_id in range(EOS + 1, VOCAB_SIZE)}
    found = {
        token_id
        for token_id, token in tokens.items()
        if token.isascii() and regex.fullmatch(pattern, text + token, partial=True)
    }
    return found | ({EOS} if regex.fullmatch(pattern, text) else set())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mask_has_the_tokens_after_which_the_text_can_still_match(pattern: str) -> None:
    """Where the grammar forces a text, the mask has the token that the tokenizer would choose."""
    random, constraint = Random(1), constraint_of(pattern)
    for _ in range(6):
        token_ids: list[int] = []
        while EOS not in token_ids:
            tokens = allowed(constraint, token_ids)
            ascii_tokens = {i for i in tokens if TOKENIZER.decode([i]).isascii()}
            expected = viable(pattern, TOKENIZER.decode(token_ids))
            assert tokens and ascii_tokens <= expected
            assert len(tokens) == 1 or ascii_tokens == expected
            token_ids.append(random.choice(sorted(ascii_tokens)))


def test_no_token_follows_an_output_outside_of_the_grammar() -> None:
    constraint = constraint_of("[0-9]+")
    letters = TOKENIZER.encode("abc").ids
    assert not allowed(constraint, letters)
    assert allowed(constraint, TOKENIZER.encode("12").ids)


class Clock:
    """A clock that advances by `step_s` with each reading."""

    def __init__(self, step_s: float) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_masks_end_with_the_budget_of_their_request() -> None:
    """Two sequences share the budget of theirs; it stays spent."""
    clock = Clock(MAX_CPU_S / 10)
    budget, params = CpuBudget(clock), SamplingParams(grammar=grammar(regex="a*"))
    first, second = (GRAMMARS.constrain(params, budget) for _ in range(2))
    assert first is not None and second is not None
    token_ids = TOKENIZER.encode("aaaa").ids
    num_masks = 0
    while first.failure(token_ids) is None:
        assert allowed(first, token_ids[:1]) or first.failure(token_ids)
        num_masks += 1
    assert 8 <= num_masks <= 12
    clock.step_s = 0.0
    assert "of a CPU" in (second.failure([]) or "")
    assert not allowed(first, []) and not allowed(second, [])


def test_a_text_that_exceeds_a_limit_leaves_others_their_masks() -> None:
    """A draft or a beam that loses may do so."""
    ambiguous = grammar(grammar='start: a\na: a a | a a a | a a a a | /[a-z]/ | ""')
    params = SamplingParams(eos_token_ids=(EOS,), grammar=ambiguous)
    constraint = GRAMMARS.constrain(params, CpuBudget(Clock(0.0)))
    assert constraint is not None
    [letter] = TOKENIZER.encode("a").ids[-1:]
    short, long = [letter] * 5, [letter] * 90
    expected = allowed(constraint, short)
    constraint.prepare([short, long, short])
    assert not allowed(constraint, long)
    assert "Too many items" in (constraint.failure(long) or "")
    assert expected and allowed(constraint, short) == expected
    assert constraint.failure(short) is None


def test_a_long_text_of_quick_masks_does_not_spend_its_budget() -> None:
    clock = Clock(TOKEN_CPU_S / 2)
    budget = CpuBudget(clock)
    for _ in range(int(10 * MAX_CPU_S / TOKEN_CPU_S)):
        started = budget.clock()
        budget.charge(budget.clock() - started, 1)
    assert not budget.is_spent
    budget.charge(MAX_CPU_S, 0)
    assert budget.is_spent, "tokens give back what was spent, and no more"


def test_a_new_output_never_waits_for_the_compilation_of_another_grammar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does it compile again what a request brings along, or what was compiled lately."""
    known, new = grammar(regex="known"), grammar(regex="new")
    matcher = GRAMMARS.compile(known)
    is_compiling, may_compile = Event(), Event()

    def compile_slowly(*args: Any, **options: Any) -> LLMatcher:
        is_compiling.set()
        assert may_compile.wait(60)
        return LLMatcher(*args, **options)

    monkeypatch.setattr("worker.engine.grammar.grammars.LLMatcher", compile_slowly)
    with ThreadPoolExecutor(2) as threads:
        try:
            compiling = threads.submit(GRAMMARS.compile, new)
            assert is_compiling.wait(60)
            for text, given in ((known, None), ("evicted", matcher)):
                params = SamplingParams(eos_token_ids=(EOS,), grammar=text)
                made = threads.submit(GRAMMARS.constrain, params, CpuBudget(), given)
                assert made.result(timeout=60) is not None
            assert not compiling.done()
        finally:
            may_compile.set()


def test_a_mask_acts_with_every_parameter_as_a_ban_of_the_other_tokens() -> None:
    """All rows have random parameters."""
    random = Random(2)
    masked, banned = [], []
    for number in range(120):
        params = random_sampling_params(random, VOCAB_SIZE)
        params = replace(
            params,
            max_new_tokens=50,
            eos_token_ids=(EOS,),
            forced_bos_token_id=None,
            forced_eos_token_ids=(),
            remove_invalid_values=False,
            exponential_decay_length_penalty=None,
            logprobs=True,
        )
        pattern = PATTERNS[number % len(PATTERNS)]
        prompt = random_prompt(random, VOCAB_SIZE)
        constraint = constraint_of(pattern)
        others = set(range(VOCAB_SIZE)) - allowed(constraint, [])
        suppressed = tuple({*params.suppress_tokens, *others})
        masked.append(row(prompt, replace(params, grammar=grammar(regex=pattern)), constraint))
        banned.append(row(prompt, replace(params, suppress_tokens=suppressed), None))
    logits = 4 * torch.randn(len(masked), VOCAB_SIZE, generator=torch.Generator().manual_seed(3))
    found = sample_tokens(logits.clone(), masked)
    expected = sample_tokens(logits.clone(), banned)
    tokens = [token for token in found if isinstance(token, SampledToken)]
    assert tokens == [token for token in expected if isinstance(token, SampledToken)]
    assert len(tokens) > 60


def row(prompt: list[int], params: SamplingParams, constraint: OutputConstraint | None) -> Sequence:
    request = Request(request_id="r", prompt_token_ids=prompt, params=params)
    return Sequence.of(request, 0, 0, make_pipeline(params), constraint=constraint)
