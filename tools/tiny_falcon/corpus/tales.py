"""Tales of three kinds: about a character, in the first person, and in verse."""

import random
from collections.abc import Callable

from tools.tiny_falcon.corpus.grammar import Scene, expand
from tools.tiny_falcon.corpus.lexicon import draw_scene
from tools.tiny_falcon.corpus.sentences import load_lines, load_sections

_OPENINGS = load_lines("openings.txt")
_RHYMES = load_sections("rhymes.txt")["rhymes"]  # lines of a paragraph rhyme
_PLOTS = load_sections("plots.txt")
FLYING_PLOTS = ("message",)  # only for birds
MORAL_SHARE = 0.25


def draw_plot(rng: random.Random, *, may_fly: bool) -> str:
    return rng.choice([name for name in _PLOTS if may_fly or name not in FLYING_PLOTS])


def events(scene: Scene, rng: random.Random, plot: str) -> str:
    """Return sentences of each stage of the plot, sometimes with a moral."""
    sentences = [rng.choice(stage) for stage in _PLOTS[plot]]
    if rng.random() < MORAL_SHARE:
        sentences.append(rng.choice(_OPENINGS["morals"]))
    return " ".join(expand(sentence, scene, rng) for sentence in sentences)


def tale(rng: random.Random, **fixed: str) -> str:
    """Return a tale of four to eight sentences; `fixed` slots set its hero, place or thing."""
    plot = draw_plot(rng, may_fly="kind" not in fixed)
    scene = draw_scene(rng, cast="birds" if plot in FLYING_PLOTS else "", **fixed)
    return expand(rng.choice(_OPENINGS["openings"]), scene, rng) + " " + events(scene, rng, plot)


def musing(rng: random.Random, **fixed: str) -> str:
    return expand(rng.choice(_OPENINGS["first person"]), draw_scene(rng, **fixed), rng)


def poem(rng: random.Random, **fixed: str) -> str:
    """Return two rhyming couplets."""
    scene = draw_scene(rng, **fixed)
    lines: list[str] = []
    for rhyme in rng.sample(_RHYMES, 2):
        lines += [expand(line, scene, rng) for line in rng.sample(rhyme, 2)]
    couplets = f"{lines[0]},\n{lines[1]}.\n{lines[2]},\n{lines[3]}."
    return couplets.replace("?,", "?").replace("?.", "?")  # a question has its own mark


_TELLERS: tuple[Callable[..., str], ...] = (tale, musing, poem)


def any_tale(rng: random.Random, **fixed: str) -> str:
    return rng.choices(_TELLERS, (0.66, 0.26, 0.08))[0](rng, **fixed)
