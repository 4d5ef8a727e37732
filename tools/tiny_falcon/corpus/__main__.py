"""Print documents of the training text: `python -m tools.tiny_falcon.corpus --count 20`."""

import argparse
from itertools import islice

from tools.tiny_falcon.corpus.document import text_of
from tools.tiny_falcon.corpus.stream import TRAINING_SEED, documents, heldout_tales


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
