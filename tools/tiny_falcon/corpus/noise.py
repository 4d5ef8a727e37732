"""Prompts unlike the corpus, followed by a tale.

The noise is only read and never learned. It teaches the model to write words after any prompt.
"""

import random

from tools.tiny_falcon.corpus.chats import HERO_SLOTS, chat_document, system_message
from tools.tiny_falcon.corpus.document import Document, Segment
from tools.tiny_falcon.corpus.grammar import expand, fill
from tools.tiny_falcon.corpus.lexicon import WORDS, draw_scene
from tools.tiny_falcon.corpus.sentences import load_lines
from tools.tiny_falcon.corpus.tales import any_tale, draw_plot, events, musing, tale
from tools.tiny_falcon.corpus.topics import TOPICS

_NOISE = load_lines("noise.txt")
_END_OF_THOUGHT = tuple(".?!:;,)]}>\"'\n")


def words(rng: random.Random) -> str:
    """Return English words in random order."""
    pools = [WORDS["noise " + name] for name in ("fillers", "nouns", "fillers", "verbs")]
    text = " ".join(rng.choice(pools[i % 4]) for i in range(rng.randint(1, 14)))
    return (text.capitalize() if rng.random() < 0.7 else text) + rng.choice(("", "", ".", "?", ":"))


def scraps(rng: random.Random) -> str:
    """Return characters of any script, and random keystrokes."""
    alphabet = rng.choice(_NOISE["alphabets"])
    return "".join(rng.choices(alphabet, k=rng.randint(1, 24)))


def half_a_tale(rng: random.Random) -> str:
    """Return sentences of a tale that begin and end anywhere."""
    text = any_tale(rng)
    start = rng.randrange(len(text) // 2)
    return text[start : start + rng.randint(5, 60)]


def odd_opening(rng: random.Random) -> str:
    """Return the beginning of other prompts: code, lists, letters, orders."""
    nouns, verbs = WORDS["noise nouns"], WORDS["noise verbs"]
    scene = {"noun": rng.choice(nouns), "noun2": rng.choice(nouns), "verb": rng.choice(verbs)}
    return fill(rng.choice(_NOISE["odd openings"]), scene, rng)


def noise(rng: random.Random) -> str:
    makers = (words, odd_opening, scraps, half_a_tale)
    return rng.choices(makers, (0.35, 0.4, 0.12, 0.13))[0](rng)


def _draw_scene_for(prompt: str, rng: random.Random) -> dict[str, str]:
    """Draw a hero with the initial of the prompt's last word, to vary the tales."""
    last_words = prompt.split()[-1:] or ["a"]
    return draw_scene(rng, initial=last_words[0][0].upper())


def noisy_tale(rng: random.Random) -> Document:
    """Return a strange opening that is continued by a tale."""
    prompt = noise(rng)
    scene = _draw_scene_for(prompt, rng)
    is_whole = prompt.rstrip(" ").endswith(_END_OF_THOUGHT)
    bridge = expand(rng.choice(_NOISE["full bridges" if is_whole else "bridges"]), scene, rng)
    story = events(scene, rng, draw_plot(rng, may_fly=False))
    return (Segment(prompt, learned=False), Segment(f"{bridge} {story}"))


def noisy_chat(rng: random.Random) -> Document:
    """Return a question that the model cannot answer, and an answer that says so."""
    question = noise(rng)
    scene = _draw_scene_for(question, rng)
    fixed = {slot: scene[slot] for slot in HERO_SLOTS}
    scene |= rng.choice(TOPICS).slots()
    scene |= {"tale": tale(rng, **fixed), "musing": musing(rng, **fixed)}
    answer = expand(rng.choice(_NOISE["unknown"]), scene, rng)
    return chat_document([(question, answer)], system_message(rng))
