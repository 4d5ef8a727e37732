"""Split the held-out stories for the tasks of this folder; lm-eval loads this file by its name."""

import re
from typing import Any

SENTENCE = re.compile(r'(?<=[.!?])"? ')
NUM_ENDINGS = 4


def with_endings(stories: Any) -> Any:
    """Return the stories of three sentences or more, a `datasets.Dataset`, with their parts.

    `endings` has the last sentence of the story at `place`, and of the next stories elsewhere.
    """
    stories = stories.filter(lambda story: len(SENTENCE.split(story["text"])) > 2)
    parts = [SENTENCE.split(text) for text in stories["text"]]

    def split(story: dict[str, Any], index: int) -> dict[str, Any]:
        sentences, place = parts[index], index % NUM_ENDINGS
        endings = [parts[(index + other - place) % len(parts)][-1] for other in range(NUM_ENDINGS)]
        start = story["text"].removesuffix(sentences[-1]).rstrip()
        return {
            "start": start,
            "endings": endings,
            "place": place,
            "first": sentences[0],
            "second": " " + sentences[1].rstrip(".!?"),
        }

    return stories.map(split, with_indices=True)
