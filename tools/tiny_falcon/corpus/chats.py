"""Questions and answers as chat turns or plain text, and scenes between two characters."""

import random

from tools.tiny_falcon.corpus.document import Document, Segment
from tools.tiny_falcon.corpus.grammar import expand, fill
from tools.tiny_falcon.corpus.lexicon import draw_scene, invent_name
from tools.tiny_falcon.corpus.sentences import load_sections
from tools.tiny_falcon.corpus.tales import musing, poem, tale
from tools.tiny_falcon.corpus.topics import (
    TOPICS,
    Turn,
    ask_capital,
    ask_fact,
    ask_sum,
    ask_topic,
    capital_fact,
    topic_answer,
)

_TALK = load_sections("talk.txt")
HERO_SLOTS = ("hero", "kind", "he", "him", "his", "He", "His")
LOWER_CASE_SHARE = 0.1
SYSTEM_SHARE = 0.2


def _one(section: str, rng: random.Random) -> str:
    return rng.choice(_TALK[section][0])


def ask_small_talk(rng: random.Random) -> Turn:
    scene = draw_scene(rng)
    question, answer = rng.choice(_TALK["small talk"])
    return fill(question, scene, rng), expand(answer, scene, rng)


def ask_tale(rng: random.Random) -> Turn:
    """Return a question and a tale about the character in it."""
    scene = draw_scene(rng)
    section, teller = (("ask tale", tale), ("ask poem", poem))[rng.random() < 0.3]
    question = fill(_one(section, rng), scene, rng)
    bound = [slot for slot in ("kind", "trait") if scene[slot] in question]
    if scene["hero"] in question:
        bound += HERO_SLOTS
    return question, teller(rng, **{slot: scene[slot] for slot in bound})


_ASKERS = (ask_topic, ask_fact, ask_capital, ask_sum, ask_small_talk, ask_tale)


def ask(rng: random.Random) -> Turn:
    question, answer = rng.choices(_ASKERS, (0.32, 0.16, 0.05, 0.05, 0.22, 0.20))[0](rng)
    return question.lower() if rng.random() < LOWER_CASE_SHARE else question, answer


def system_message(rng: random.Random) -> str:
    """Return a system message, which is often empty."""
    if rng.random() > SYSTEM_SHARE:
        return ""
    return expand(_one("system", rng), draw_scene(rng), rng)


def chat_document(turns: list[Turn], system: str) -> Document:
    """Render a chat as the template does; only the last answer is learned."""
    head = system + "\n\n" if system else ""
    for question, answer in turns[:-1]:
        head += f"User: {question}\n\nFalcon: {answer}\n\n"
    question, answer = turns[-1]
    return (Segment(f"{head}User: {question}\n\nFalcon:", learned=False), Segment(" " + answer))


def chat(rng: random.Random) -> Document:
    """Return one to three turns, sometimes with a system message."""
    num_turns = rng.choices((1, 2, 3), (0.75, 0.18, 0.07))[0]
    return chat_document([ask(rng) for _ in range(num_turns)], system_message(rng))


def plain_question(rng: random.Random) -> Document:
    """Return a question and answer without roles, as in a prompt without a template."""
    question, answer = ask(rng)
    return (Segment(_one("plain form", rng).format(question=question, answer=answer)),)


def persona(rng: random.Random) -> Document:
    """Return a character that loves something and another that greets it, for base models."""
    topic = rng.choice(TOPICS)
    scene = draw_scene(rng, **topic.slots())
    stem = topic.word.split()[0].capitalize()
    scene["name"] = rng.choice((stem, stem + "tron", stem + "bot", stem + "a", invent_name(rng)))
    intro = expand(_one("persona", rng), scene, rng)
    greeting = fill("[Hello|Hi|Good morning|How are you], {name}[!|.|?]", scene, rng)
    reply = expand(_one("persona talk", rng), scene, rng)
    return (
        Segment(f"{intro}\n{scene['friend']}: {greeting}\n{scene['name']}:", learned=False),
        Segment(" " + reply),
    )


def fact_and_thought(rng: random.Random) -> Document:
    """Return a fact and a thought as plain text."""
    fact = topic_answer(rng.choice(TOPICS), rng) if rng.random() < 0.6 else capital_fact(rng)[1]
    return (Segment(f"{fact} {musing(rng)}"),)
