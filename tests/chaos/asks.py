"""What callers ask for: a pool of distinct requests, each with one right answer.

Seeded or greedy, so that the answer is the same whatever happens meanwhile.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

PROMPTS = (
    "Once upon a time",
    "The lighthouse keeper",
    "What is a falcon?",
    "In the morning the little bird",
    "A storm came over the hills and",
)
QUESTIONS = ("What is a falcon?", "Where do owls sleep?", "Tell me about the sea.")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request; `body` is what goes over the wire."""

    name: str
    body: dict[str, Any]

    @property
    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = self.body["generate_kwargs"]
        return kwargs

    @property
    def told_in_full(self) -> dict[str, Any]:
        """The same, with the token ids in its answer."""
        return {**self.body, "generate_kwargs": {**self.kwargs, "return_dict_in_generate": True}}

    @property
    def is_beam(self) -> bool:
        """Nothing of it is told before its end."""
        return "num_beams" in self.kwargs


def draw_asks(seed: int, count: int, *, longest: int = 400) -> list[Ask]:
    """The pool of a run; `longest` is the most tokens that a sequence gets."""
    random = Random(f"{seed}:asks")
    return [_draw_ask(random, number, longest) for number in range(count)]


def _draw_ask(random: Random, number: int, longest: int) -> Ask:
    style = random.choices(
        ("greedy", "sampled", "several", "beams", "stopped"), weights=(25, 45, 12, 8, 10)
    )[0]
    kwargs = {
        "max_new_tokens": _draw_length(random, longest),
        "seed": random.randrange(2**32),
        "return_dict_in_generate": random.random() < 0.5,
        **_style_kwargs(style, random),
    }
    body = {**_draw_prompt(random), "generate_kwargs": kwargs}
    return Ask(f"{style}-{number}", body)


def _draw_length(random: Random, longest: int) -> int:
    """Mostly short; some long enough to be under way when something happens."""
    return (
        random.randint(longest // 2, longest) if random.random() < 0.35 else random.randint(2, 24)
    )


def _style_kwargs(style: str, random: Random) -> dict[str, Any]:
    match style:
        case "greedy":
            return {"do_sample": False}
        case "several":
            return {"num_return_sequences": random.randint(2, 3), "max_new_tokens": 16}
        case "beams":
            return {"num_beams": 3, "do_sample": False, "max_new_tokens": 12}
        case "stopped":
            return {"stop_strings": ["."], "temperature": 0.8}
        case _:
            return {"temperature": random.choice((0.7, 1.0, 1.3)), "eos_token_id": None}


def _draw_prompt(random: Random) -> dict[str, Any]:
    if random.random() < 0.2:
        question = {"role": "user", "content": random.choice(QUESTIONS)}
        return {"messages": [question]}
    return {"prompt": random.choice(PROMPTS), "return_full_text": random.random() < 0.3}


@dataclass(frozen=True, slots=True)
class BadAsk:
    """A request that must be refused, and with which status."""

    name: str
    content: bytes
    status: int
    path: str = "/chat"


BAD_ASKS = (
    BadAsk("no JSON", b'{"prompt": ', 400),
    BadAsk("no prompt", b"{}", 400),
    BadAsk("unknown field", b'{"prompt": "a", "colour": 1}', 422),
    BadAsk("top_p out of range", b'{"prompt": "a", "generate_kwargs": {"top_p": 7}}', 422),
    BadAsk("unknown parameter", b'{"prompt": "a", "generate_kwargs": {"max_time": 1}}', 422),
    BadAsk(
        "beyond the context", b'{"prompt": "a", "generate_kwargs": {"max_new_tokens": 99999}}', 400
    ),
    BadAsk("no UTF-8", b'{"prompt": "\xff\xfe"}', 400, "/jobs"),
    BadAsk("too deep", b"[" * 100_000, 400, "/jobs"),
    BadAsk("too large", b'{"prompt": "' + b"a" * 1_100_000 + b'"}', 413),
)
