"""The training text: an endless, seeded stream of documents, generated from lines in `text/`."""

from tools.tiny_falcon.corpus.document import Document, Segment, text_of
from tools.tiny_falcon.corpus.stream import TRAINING_SEED, documents, heldout, heldout_tales
from tools.tiny_falcon.corpus.topics import CAPITALS, TOPICS, Turn

__all__ = [
    "CAPITALS",
    "TOPICS",
    "TRAINING_SEED",
    "Document",
    "Segment",
    "Turn",
    "documents",
    "heldout",
    "heldout_tales",
    "text_of",
]
