"""The training text: an endless, seeded stream of documents, and its held-out part.

`python -m training.corpus [SEED] [COUNT]` prints some. Nothing is downloaded: the
text is made here.
"""

import random
import sys
from collections.abc import Callable, Iterator

from training.chats import chat, fact_and_thought, persona, plain_question
from training.document import Document, Segment, cut_somewhere, text_of
from training.noise import noisy_chat, noisy_tale
from training.tales import any_tale

TRAINING_SEED = 7
HELDOUT_SEED = 1_000_003
CUT_SHARE = 0.12


def plain_tale(rng: random.Random) -> Document:
    return (Segment(any_tale(rng)),)


MIXTURE: tuple[tuple[Callable[[random.Random], Document], float], ...] = (
    (plain_tale, 0.36),
    (chat, 0.25),
    (noisy_tale, 0.13),
    (plain_question, 0.09),
    (noisy_chat, 0.08),
    (persona, 0.05),
    (fact_and_thought, 0.04),
)


def documents(seed: int) -> Iterator[Document]:
    """Documents without end; the same seed gives the same ones."""
    rng = random.Random(seed)
    makers, weights = zip(*MIXTURE, strict=True)
    while True:
        document: Document = rng.choices(makers, weights)[0](rng)
        yield cut_somewhere(document, rng) if rng.random() < CUT_SHARE else document


def heldout(count: int) -> list[Document]:
    """Documents of another seed."""
    stream = documents(HELDOUT_SEED)
    return [next(stream) for _ in range(count)]


def main() -> None:
    seed, count = (int(value) for value in (*sys.argv[1:], "7", "20")[:2])
    for _, document in zip(range(count), documents(seed), strict=False):
        print(text_of(document), end="\n----\n")


if __name__ == "__main__":
    main()
