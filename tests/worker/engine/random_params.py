"""Random mixes of generation parameters, many of them extreme, for a vocabulary of any size.

For tests of single parts on many rows; param_strategies.py is for tests that must shrink.
"""

from dataclasses import replace
from random import Random
from typing import Any

from tests.worker.engine.oracle import END_OF_TEXT_ID
from worker.engine import SamplingParams


def random_prompt(random: Random, vocab_size: int, max_length: int = 24) -> list[int]:
    """Few distinct tokens, so that n-grams repeat."""
    palette = random.sample(range(vocab_size), 6)
    return random.choices(palette, k=random.randint(1, max_length))


def random_greedy_params(random: Random, vocab_size: int) -> SamplingParams:
    """Any of the processors that act in greedy mode; warpers too, which must not."""
    params = SamplingParams(
        max_new_tokens=random.randint(1, 16),
        eos_token_ids=random.choice([(), (END_OF_TEXT_ID,), _ids(random, vocab_size, 30)]),
    )
    options = _greedy_options(random, vocab_size)
    if not params.eos_token_ids:
        del options["exponential_decay_length_penalty"]  # transformers needs an eos for it
    chosen = random.sample(sorted(options), k=random.randint(0, 4))
    return replace(params, **{name: options[name] for name in chosen})


def random_sampling_params(random: Random, vocab_size: int) -> SamplingParams:
    """Processors and warpers together."""
    options = _warper_options(random)
    chosen = random.sample(sorted(options), k=random.randint(1, 4))
    greedy = random_greedy_params(random, vocab_size)
    return replace(
        greedy,
        do_sample=True,
        seed=random.getrandbits(63),
        **{name: options[name] for name in chosen},
    )


def _greedy_options(random: Random, vocab_size: int) -> dict[str, Any]:
    words = tuple(_ids(random, vocab_size, random.randint(1, 3)) for _ in range(12))
    biased = tuple(_ids(random, vocab_size, random.randint(1, 2)) for _ in range(12))
    return {
        "min_length": random.randint(1, 30),
        "min_new_tokens": random.randint(0, 12),
        "repetition_penalty": random.choice([0.5, 1.2, 1.7, 5.0]),
        "no_repeat_ngram_size": random.randint(1, 4),
        "encoder_no_repeat_ngram_size": random.randint(1, 4),
        "bad_words_ids": (*words, *((token_id,) for token_id in _ids(random, vocab_size, 50))),
        "sequence_bias": tuple((word, random.uniform(-8.0, 8.0)) for word in biased),
        "suppress_tokens": _ids(random, vocab_size - 1, 60),
        "begin_suppress_tokens": _ids(random, vocab_size, 200),
        # transformers refuses to force a suppressed token.
        "forced_bos_token_id": vocab_size - 1,
        "forced_eos_token_ids": (END_OF_TEXT_ID, vocab_size - 1)[random.randint(0, 1) :],
        "exponential_decay_length_penalty": (random.randint(0, 6), random.uniform(1.01, 1.8)),
        "remove_invalid_values": True,
        "renormalize_logits": True,
        "temperature": 0.3,  # ignored in greedy mode
        "top_k": 1,
    }


def _warper_options(random: Random) -> dict[str, Any]:
    return {
        "temperature": random.choice([0.2, 0.7, 1.5, 3.0]),
        "top_k": random.choice([1, 2, 10, 50, 100_000]),
        "top_p": random.choice([0.01, 0.3, 0.9, 0.999]),
        "min_p": random.choice([0.0, 0.05, 0.5, 1.0]),
        "typical_p": random.choice([0.05, 0.5, 0.95]),
        "epsilon_cutoff": random.choice([1e-4, 0.01, 0.5]),
        "eta_cutoff": random.choice([1e-4, 0.01, 0.5]),
    }


def _ids(random: Random, vocab_size: int, count: int) -> tuple[int, ...]:
    return tuple(random.sample(range(vocab_size), count))
