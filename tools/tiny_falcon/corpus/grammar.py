"""A template language in three rules; owns how a template becomes text, and knows no vocabulary.

`[this|that]` picks one, and may nest; `{slot}` is filled from a scene; articles and the capitals
that begin sentences are mended at the end, so templates need not care.
"""

import random
import re
from collections.abc import Mapping, Sequence

Scene = Mapping[str, str]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIO]|honest)")
_SENTENCE_START = re.compile(r"(^|[.!?] |\n)([a-z])")


def fill(template: str, scene: Scene, rng: random.Random) -> str:
    """One text from `template`, its case untouched; an unknown slot raises KeyError."""
    while _CHOICE.search(template):
        template = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)
    return _ARTICLE.sub(r"\1n ", template.format_map(scene))


def expand(template: str, scene: Scene, rng: random.Random) -> str:
    """`fill`, with a capital at the beginning of every sentence."""
    return capitalize_sentences(fill(template, scene, rng))


def expand_all(templates: Sequence[str], scene: Scene, rng: random.Random) -> str:
    """The templates one after the other, as sentences of one paragraph."""
    return " ".join(expand(template, scene, rng) for template in templates if template)


def capitalize_sentences(text: str) -> str:
    """`an owl. she sang` → `An owl. She sang`."""
    return _SENTENCE_START.sub(lambda found: found[1] + found[2].upper(), text)
