"""A template language with three rules.

`[this|that]` chooses one option and may nest. `{slot}` is filled from a scene. Articles and
capitals at the start of sentences are corrected at the end.
"""

import random
import re
from collections.abc import Mapping, Sequence

Scene = Mapping[str, str]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIO]|honest)")
_SENTENCE_START = re.compile(r"(^|[.!?] |\n)([a-z])")


def fill(template: str, scene: Scene, rng: random.Random) -> str:
    """Return a text from `template` with its case unchanged. An unknown slot raises KeyError."""
    while _CHOICE.search(template):
        template = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)
    return _ARTICLE.sub(r"\1n ", template.format_map(scene))


def expand(template: str, scene: Scene, rng: random.Random) -> str:
    """Return `fill` with a capital at the start of every sentence."""
    return capitalize_sentences(fill(template, scene, rng))


def expand_all(templates: Sequence[str], scene: Scene, rng: random.Random) -> str:
    """Expand the templates in order, as sentences of one paragraph."""
    return " ".join(expand(template, scene, rng) for template in templates if template)


def capitalize_sentences(text: str) -> str:
    """Capitalize sentences: `an owl. she sang` → `An owl. She sang`."""
    return _SENTENCE_START.sub(lambda found: found[1] + found[2].upper(), text)
