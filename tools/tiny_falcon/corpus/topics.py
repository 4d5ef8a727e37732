"""Facts that the tiny Falcon learns, which a child can check, from `text/`."""

import random
from dataclasses import dataclass

from tools.tiny_falcon.corpus.grammar import expand, fill
from tools.tiny_falcon.corpus.sentences import load_lines, load_sections

Turn = tuple[str, str]  # question and answer

_TALK = load_sections("talk.txt")
_QUESTION_WORDS = ("why", "how", "what", "where", "which", "will")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic with two facts."""

    word: str
    plural: str
    is_a: str  # completes "A queue is ..."
    also: str  # a sentence without its full stop

    def slots(self) -> dict[str, str]:
        return dict(word=self.word, plural=self.plural, is_a=self.is_a, also=self.also)


def _topic(line: str) -> Topic:
    word, plural, is_a, also = (field.strip() for field in line.split("|"))
    return Topic(word, plural, is_a, also)


TOPICS = tuple(_topic(line) for line in load_lines("topics.txt")["topics"])
CAPITALS = tuple(tuple(line.split(" | ")) for line in _TALK["capitals"][0])


def topic_answer(topic: Topic, rng: random.Random) -> str:
    return expand("a {word} is {is_a}.[| {also}.| {also}.| {also}.]", topic.slots(), rng)


def ask_topic(rng: random.Random) -> Turn:
    topic = rng.choice(TOPICS)
    question = fill(rng.choice(_TALK["ask topic"][0]), topic.slots(), rng)
    return question, topic_answer(topic, rng)


def ask_fact(rng: random.Random) -> Turn:
    questions, answer = rng.choice(_TALK["facts"])
    question = rng.choice(questions.split("|"))
    is_question = question.startswith(_QUESTION_WORDS)
    question += rng.choice(("?", "?", "") if is_question else (".", "", "!"))
    return question[0].upper() + question[1:], answer


def capital_fact(rng: random.Random) -> tuple[str, str]:
    """Return a country and a sentence with its capital."""
    country, capital = rng.choice(CAPITALS)
    return country, f"The capital of {country} is {capital}."


def ask_capital(rng: random.Random) -> Turn:
    country, answer = capital_fact(rng)
    question = f"[What is|Tell me|Do you know] the capital of {country}[?|]"
    return fill(question, {}, rng), answer


def ask_sum(rng: random.Random) -> Turn:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    template = f"[What is |How much is |Calculate |]{a} [+|plus] {b}[?| =|]"
    return fill(template, {}, rng), f"{a} plus {b} is {a + b}."
