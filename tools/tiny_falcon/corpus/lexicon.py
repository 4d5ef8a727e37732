"""Draw scenes, with characters, places and things, from the words in `text/words.txt`."""

import random
from dataclasses import dataclass

from tools.tiny_falcon.corpus.sentences import load_words

WORDS = load_words("words.txt")
INVENTED_NAMES = 0.12

# Slot of a scene → section of words.txt.
_SLOTS = {
    "trait": "traits",
    "weather": "weathers",
    "daypart": "dayparts",
    "season": "seasons",
    "home": "homes",
    "spot": "spots",
    "thing": "things",
    "food": "foods",
    "colour": "colours",
    "skill": "skills",
    "dream": "dreams",
    "virtue": "virtues",
}


@dataclass(frozen=True, slots=True)
class Character:
    """Name, kind and pronouns of a character."""

    name: str
    kind: str
    is_she: bool

    def slots(self, prefix: str = "") -> dict[str, str]:
        he, him, his = ("she", "her", "her") if self.is_she else ("he", "him", "his")
        slots = {"kind": self.kind, "he": he, "him": him, "his": his}
        slots |= {word.capitalize(): slots[word].capitalize() for word in ("he", "his")}
        return {(prefix + slot): word for slot, word in slots.items()}


def invent_name(rng: random.Random) -> str:
    """Return an invented name, so that the model learns to copy names from the prompt."""
    return "".join(rng.choices(WORDS["syllables"], k=rng.choice((2, 3)))).capitalize()


def draw_character(rng: random.Random, kinds: list[str], initial: str = "") -> Character:
    """Draw a character of one of `kinds`, with a name that begins with `initial` if possible."""
    is_she = rng.random() < 0.5
    names = WORDS["she" if is_she else "he"]
    fitting = [name for name in names if initial and name.startswith(initial)]
    invented = not fitting and rng.random() < INVENTED_NAMES
    return Character(
        invent_name(rng) if invented else rng.choice(fitting or names), rng.choice(kinds), is_she
    )


def _draw_pair(rng: random.Random, cast: str, initial: str) -> tuple[Character, Character]:
    """Draw hero and friend with different names and kinds."""
    everybody = WORDS["birds"] + WORDS["beasts"] + WORDS["people"]
    heroes = WORDS["birds"] if cast == "birds" else WORDS["birds"] + everybody
    hero = draw_character(rng, heroes, initial)
    friend = draw_character(rng, everybody)
    while friend.name == hero.name or friend.kind == hero.kind:
        friend = draw_character(rng, everybody)
    return hero, friend


def _other(rng: random.Random, section: str, taken: str) -> str:
    return rng.choice([word for word in WORDS[section] if word != taken])


def draw_scene(
    rng: random.Random, *, cast: str = "", initial: str = "", **fixed: str
) -> dict[str, str]:
    """Draw a value for every slot of a template; `fixed` slots override the draw."""
    hero, friend = _draw_pair(rng, cast, initial)
    scene = {"hero": hero.name, "friend": friend.name} | hero.slots() | friend.slots("f")
    scene |= {slot: rng.choice(WORDS[section]) for slot, section in _SLOTS.items()}
    for slot in ("spot", "trait", "thing"):
        scene[slot + "2"] = _other(rng, _SLOTS[slot], scene[slot])
    return scene | fixed
