"""The habits of style that `tests.prose` counts become fewer in every file, and none is new."""

import json

import pytest

from tests.prose import COUNTS, LONG_SENTENCE, ROOT, count_habits, habits_of


def test_no_file_has_more_habits_than_recorded() -> None:
    """After a fix or a move, `python -m tests.prose --write` records the counts again."""
    recorded: dict[str, int] = json.loads(COUNTS.read_text())
    counts = count_habits(ROOT)
    worse = {
        name: dict(count) for name, count in counts.items() if count.total() > recorded.get(name, 0)
    }
    assert worse == {}


@pytest.mark.parametrize(
    ("text", "habits"),
    [
        ("A refused client that retries on time is admitted before new requests.", []),
        ("Who was refused and comes back when told goes first.", ["who", "told", "come back"]),
        ('Run it twice; see `who` and "nobody" in the glossary.', []),
        ("The life of a request", []),
        ("A retry is another life. It begins anew.", ["life", "anew"]),
        ("word " * 36, [LONG_SENTENCE]),
        ("word " * 20 + ".\n- " + "word " * 20, []),
    ],
)
def test_habits_are_found_in_prose_and_not_in_quotes(text: str, habits: list[str]) -> None:
    assert list(habits_of(text)) == habits
