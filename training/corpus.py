"""The training text: an endless, seeded stream of documents, and its held-out part.

`python -m training.corpus --count 20` prints some. Nothing is downloaded: the text is made here,
from the lines in `training/text/`.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from itertools import count, islice

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
    (plain_tale, 0.28),
    (chat, 0.30),
    (noisy_tale, 0.13),
    (plain_question, 0.12),
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


def heldout(num_documents: int) -> list[Document]:
    """Documents of another seed."""
    return list(islice(documents(HELDOUT_SEED), num_documents))


def heldout_tales(num_tales: int) -> list[str]:
    """Held-out tales without line breaks, for `heldout.txt`: one text a line."""
    rng = random.Random(HELDOUT_SEED + 1)
    tales = (any_tale(rng) for _ in count())
    return list(islice((tale for tale in tales if "\n" not in tale), num_tales))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=TRAINING_SEED)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--heldout-tales", action="store_true", help="print heldout.txt instead")
    arguments = parser.parse_args()
    if arguments.heldout_tales:
        print("\n".join(heldout_tales(arguments.count)))
        return
    for document in islice(documents(arguments.seed), arguments.count):
        print(text_of(document), end="\n----\n")


if __name__ == "__main__":
    main()
