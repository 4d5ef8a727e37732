"""Hypothesis strategies: prompts, and every generation parameter over its range.

They shrink to few parameters, each near its default.
"""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from shared.request.limits import MAX_BEAM_EOS
from tests.worker.engine.oracle import END_OF_TEXT_ID
from worker.engine import SamplingParams
from worker.model.checkpoint.random_checkpoint import SMALL_SIZE

VOCAB_SIZE = SMALL_SIZE["vocab_size"]
OUTSIDE = VOCAB_SIZE + 88  # an eos that the vocabulary does not have
LAST = -1  # in a sequence: the last token of the prompt

Options = dict[str, SearchStrategy[Any]]
Prompt = tuple[int, ...]
Words = tuple[tuple[int, ...], ...]
Params = SearchStrategy[SamplingParams]

token_ids = st.integers(0, VOCAB_SIZE - 1)


@st.composite
def prompts(draw: st.DrawFn, min_size: int = 1, max_size: int = 20) -> Prompt:
    """Few distinct tokens, so that n-grams repeat."""
    palette = draw(st.lists(token_ids, min_size=1, max_size=5))
    ids = st.lists(st.sampled_from(palette), min_size=min_size, max_size=max_size)
    return tuple(draw(ids))


@st.composite
def spans(draw: st.DrawFn, max_size: int) -> tuple[int, ...]:
    """Many token ids from three numbers: some of them hit the model's likely tokens."""
    start, step = draw(token_ids), draw(st.integers(1, 9))
    size = draw(st.integers(1, max_size))
    return tuple(dict.fromkeys((start + step * i) % VOCAB_SIZE for i in range(size)))


words = (
    spans(120).map(lambda ids: tuple((i,) for i in ids))
    | spans(200).map(lambda ids: tuple((LAST, i) for i in ids))
    | st.lists(st.lists(token_ids, min_size=1, max_size=3).map(tuple), min_size=1).map(tuple)
)


@st.composite
def biases(draw: st.DrawFn) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Token sequences with few different biases, in turn."""
    values = draw(st.lists(st.floats(-20, 20), min_size=1, max_size=3))
    return tuple((word, values[i % len(values)]) for i, word in enumerate(draw(words)))


# Parameters of every decoding mode.
RULES: Options = {
    "min_length": st.integers(0, 40),
    "min_new_tokens": st.integers(0, 14),
    "stop_strings": st.lists(st.text("e tao", min_size=1, max_size=2), min_size=1).map(tuple),
    "repetition_penalty": st.sampled_from([1.2, 0.5, 5.0]) | st.floats(0.3, 3),
    "no_repeat_ngram_size": st.integers(1, 5),
    "encoder_no_repeat_ngram_size": st.integers(1, 5),
    "bad_words_ids": words,
    "sequence_bias": biases(),
    "suppress_tokens": spans(VOCAB_SIZE),
    "begin_suppress_tokens": spans(VOCAB_SIZE),
    "forced_bos_token_id": token_ids,
    "forced_eos_token_ids": st.just((END_OF_TEXT_ID,)) | spans(2),
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 8), st.floats(0.1, 3)),
    "remove_invalid_values": st.just(True),
    "renormalize_logits": st.just(True),
    "top_logprobs": st.integers(1, 20),
    "prompt_lookup_num_tokens": st.integers(0, 12),
    "max_matching_ngram_size": st.integers(1, 4),
}

WARPERS: Options = {
    "temperature": st.sampled_from([0.7, 1.5, 0.2, 5.0]) | st.floats(0.2, 3),
    "top_k": st.sampled_from([50, 1, 2, 10, 100_000]) | st.integers(0, VOCAB_SIZE),
    "top_p": st.sampled_from([0.9, 0.01, 0.999]) | st.floats(0.01, 1),
    "min_p": st.sampled_from([0.05, 0.0, 1.0]) | st.floats(0, 1),
    "typical_p": st.sampled_from([0.95, 0.05]) | st.floats(0.05, 1),
    "epsilon_cutoff": st.sampled_from([1e-4, 0.5, 0.99]) | st.floats(0, 0.99),
    "eta_cutoff": st.sampled_from([1e-4, 0.5, 0.99]) | st.floats(0, 0.99),
}

# The ends of the allowed ranges. They magnify rounding: for comparisons of equal logits.
EXTREMES: Options = {
    "temperature": st.sampled_from([1e-6, 1e3]),
    "repetition_penalty": st.sampled_from([1e-6, 1e6]),
    "sequence_bias": st.sampled_from([1e20, -1e20]).map(lambda bias: (((5,), bias),)),
    "exponential_decay_length_penalty": st.just((0, 100.0)),
}

FRAME = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(1, 12),
        "eos_token_ids": st.sampled_from([(), (END_OF_TEXT_ID,), (OUTSIDE,)]) | spans(100),
    }
)
SEARCH = st.fixed_dictionaries(
    {
        "early_stopping": st.sampled_from([False, True, "never"]),
        "length_penalty": st.sampled_from([1.0, 0.0, -1.0, 10.0, -10.0]) | st.floats(-3, 3),
    }
)
DRAWS = st.fixed_dictionaries({"do_sample": st.just(True), "seed": st.integers(0, 2**63 - 1)})


@st.composite
def mixes(draw: st.DrawFn, options: Options, max_size: int) -> dict[str, Any]:
    """Values for some of the options."""
    names = st.lists(st.sampled_from(sorted(options)), unique=True, max_size=max_size)
    return {name: draw(options[name]) for name in draw(names)}


@st.composite
def beam_counts(draw: st.DrawFn) -> dict[str, Any]:
    num_beams = draw(st.integers(2, 5))
    return {"num_beams": num_beams, "num_return_sequences": draw(st.integers(1, num_beams))}


@st.composite
def group_counts(draw: st.DrawFn) -> dict[str, Any]:
    num_groups, group_size = draw(st.integers(2, 3)), draw(st.integers(1, 2))
    return {
        "num_beams": num_groups * group_size,
        "num_beam_groups": num_groups,
        "num_return_sequences": draw(st.integers(1, num_groups * group_size)),
        "diversity_penalty": draw(st.floats(0.1, 5)),
    }


def join(*parts: SearchStrategy[dict[str, Any]]) -> Params:
    """Join the parameters of all parts; later parts take precedence."""
    return st.tuples(FRAME, *parts).map(
        lambda dicts: SamplingParams(**{n: v for part in dicts for n, v in part.items()})
    )


GREEDY = join(mixes(RULES, 6), mixes(WARPERS, 2))  # with warpers, which must not act
SAMPLING = join(
    DRAWS,
    mixes({"num_return_sequences": st.integers(2, 3)}, 1),
    mixes(RULES, 4),
    mixes(WARPERS, 4),
)
EXTREME_SAMPLING = join(DRAWS, mixes(RULES, 3), mixes(WARPERS, 3), mixes(EXTREMES, 2))
BEAMS = join(beam_counts(), SEARCH, mixes(RULES, 4))
FEW_EOS = st.fixed_dictionaries(
    {"eos_token_ids": st.sampled_from([(), (END_OF_TEXT_ID,), (OUTSIDE,)]) | spans(MAX_BEAM_EOS)}
)
BEAM_SAMPLING = join(DRAWS, FEW_EOS, beam_counts(), SEARCH, mixes(RULES, 2), mixes(WARPERS, 2))
DIVERSE_BEAMS = join(group_counts(), SEARCH, mixes(RULES, 3))
ANY = GREEDY | SAMPLING | BEAMS


def after(prompt: Prompt, params: SamplingParams) -> SamplingParams:
    """Adapt parameters to a prompt and to transformers.

    Removes a decay without an eos and suppressed forced tokens. Keeps one forced token with top_p
    and typical_p: which of several equal tokens they keep depends on torch's unstable sort.
    """
    forced_eos = params.forced_eos_token_ids
    if params.do_sample and min(params.top_p, params.typical_p) < 1:
        forced_eos = forced_eos[:1]
    forced = {params.forced_bos_token_id, *forced_eos}
    has_eos = params.eos_token_ids not in ((), (OUTSIDE,))
    return replace(
        params,
        bad_words_ids=tuple(_put_last(prompt, word) for word in params.bad_words_ids),
        sequence_bias=tuple((_put_last(prompt, word), bias) for word, bias in params.sequence_bias),
        forced_eos_token_ids=forced_eos,
        suppress_tokens=tuple(i for i in params.suppress_tokens if i not in forced),
        exponential_decay_length_penalty=params.exponential_decay_length_penalty
        if has_eos
        else None,
    )


def _put_last(prompt: Prompt, word: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prompt[-1] if i == LAST else i for i in word)
