"""A training document: segments to learn and segments to read only."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of a document. Text that is not `learned`, such as noise, is only read."""

    text: str
    learned: bool = True


Document = tuple[Segment, ...]


def text_of(document: Document) -> str:
    return "".join(segment.text for segment in document)


def cut_somewhere(document: Document, rng: random.Random) -> Document:
    """Split one segment at any character, even inside a word.

    Segments are tokenized separately, so the model sees prompts that end with a space or inside a
    word. A tokenizer would never produce such a prompt otherwise.
    """
    index = max(range(len(document)), key=lambda i: len(document[i].text))
    segment = document[index]
    at = rng.randrange(1, len(segment.text))
    halves = tuple(
        Segment(part, segment.learned) for part in (segment.text[:at], segment.text[at:])
    )
    return document[:index] + halves + document[index + 1 :]
