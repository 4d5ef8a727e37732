"""A pool of distinct requests. All are greedy or seeded, so that each has one correct result."""

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
class Request:
    """A valid request."""

    name: str
    body: dict[str, Any]

    @property
    def kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = self.body["generate_kwargs"]
        return kwargs

    @property
    def body_with_token_ids(self) -> dict[str, Any]:
        """Return the body of the same request with token ids in its result."""
        return {**self.body, "generate_kwargs": {**self.kwargs, "return_dict_in_generate": True}}

    @property
    def is_beam(self) -> bool:
        """Return whether this is a beam search, which streams no tokens."""
        return "num_beams" in self.kwargs


def draw_requests(seed: int, count: int, *, longest: int = 400) -> list[Request]:
    """Draw the pool of a run; `longest` is the maximum of new tokens per sequence."""
    random = Random(f"{seed}:asks")
    return [_draw_request(random, number, longest) for number in range(count)]


def _draw_request(random: Random, number: int, longest: int) -> Request:
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
    return Request(f"{style}-{number}", body)


def _draw_length(random: Random, longest: int) -> int:
    """Draw a length: mostly short, some long enough to run while a fault happens."""
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
class InvalidRequest:
    """A request that the api must refuse with `status`."""

    name: str
    content: bytes
    status: int
    path: str = "/chat"


INVALID_REQUESTS = (
    InvalidRequest("no JSON", b'{"prompt": ', 400),
    InvalidRequest("no prompt", b"{}", 400),
    InvalidRequest("unknown field", b'{"prompt": "a", "colour": 1}', 422),
    InvalidRequest("top_p out of range", b'{"prompt": "a", "generate_kwargs": {"top_p": 7}}', 422),
    InvalidRequest(
        "unknown parameter", b'{"prompt": "a", "generate_kwargs": {"max_time": 1}}', 422
    ),
    InvalidRequest(
        "beyond the context", b'{"prompt": "a", "generate_kwargs": {"max_new_tokens": 99999}}', 400
    ),
    InvalidRequest("no UTF-8", b'{"prompt": "\xff\xfe"}', 400, "/jobs"),
    InvalidRequest("too deep", b"[" * 100_000, 400, "/jobs"),
    InvalidRequest("too large", b'{"prompt": "' + b"a" * 1_100_000 + b'"}', 413),
)
