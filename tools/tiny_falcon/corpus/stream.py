"""Draw documents of all kinds in fixed shares; a seed gives the same documents on every machine.

The package imports `documents`, `heldout` and `heldout_tales`.
"""

import random
from collections.abc import Callable, Iterator
from itertools import count, islice

from tools.tiny_falcon.corpus.chats import chat, fact_and_thought, persona, plain_question
from tools.tiny_falcon.corpus.document import Document, Segment, cut_somewhere
from tools.tiny_falcon.corpus.noise import noisy_chat, noisy_tale
from tools.tiny_falcon.corpus.tales import any_tale

TRAINING_SEED = 7
HELDOUT_SEED = 1_000_003
CUT_SHARE = 0.12


def plain_tale(rng: random.Random) -> Document:
    return (Segment(any_tale(rng)),)


MIXTURE: tuple[tuple[Callable[[random.Random], Document], float], ...] = (
    (plain_tale, 0.28),
    (chat, 0.30),
    (noisy_tale, 0.13),
    (plain_question, 0.12),
    (noisy_chat, 0.08),
    (persona, 0.05),
    (fact_and_thought, 0.04),
)


def documents(seed: int) -> Iterator[Document]:
    """Yield documents without end; equal seeds give equal documents."""
    rng = random.Random(seed)
    makers, weights = zip(*MIXTURE, strict=True)
    while True:
        document: Document = rng.choices(makers, weights)[0](rng)
        yield cut_somewhere(document, rng) if rng.random() < CUT_SHARE else document


def heldout(num_documents: int) -> list[Document]:
    """Return documents of another seed."""
    return list(islice(documents(HELDOUT_SEED), num_documents))


def heldout_tales(num_tales: int) -> list[str]:
    """Return held-out tales without line breaks, one per line of `heldout.txt`."""
    rng = random.Random(HELDOUT_SEED + 1)
    tales = (any_tale(rng) for _ in count())
    return list(islice((tale for tale in tales if "\n" not in tale), num_tales))
