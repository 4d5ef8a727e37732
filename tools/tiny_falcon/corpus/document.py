"""What a training text is: stretches to learn and stretches only to read."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """`learned` text is predicted; the rest (a user's words, noise) is only read."""

    text: str
    learned: bool = True


Document = tuple[Segment, ...]


def text_of(document: Document) -> str:
    return "".join(segment.text for segment in document)


def cut_somewhere(document: Document, rng: random.Random) -> Document:
    """Split one segment at any character, even inside a word.

    Segments are tokenized apart, so this shows the model prompts that end with a space or in the
    middle of a word, which a tokenizer would otherwise never produce.
    """
    index = max(range(len(document)), key=lambda i: len(document[i].text))
    segment = document[index]
    at = rng.randrange(1, len(segment.text))
    halves = tuple(
        Segment(part, segment.learned) for part in (segment.text[:at], segment.text[at:])
    )
    return document[:index] + halves + document[index + 1 :]
